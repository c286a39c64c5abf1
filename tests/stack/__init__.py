"""Tests of this repository's own stacks; the tests of the tool are in `tools/stack/tests`.

The scratch repositories of the tool's tests can be imported from here as well, as
``tests.stack.scratch``.
"""

from __future__ import annotations

from pathlib import Path

import scripts.stack  # puts the tool on the path

__path__ = [*__path__, str(Path(scripts.stack.__file__).parents[2] / "tools/stack/tests")]
