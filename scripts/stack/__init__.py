"""The stack tool by its former name: ``python -m scripts.stack`` is ``milestones``.

The tool is a distribution of its own, `tools/stack`. It runs from the tree, without an
installation of itself; what it needs is in `requirements/stack.txt`.
"""

from __future__ import annotations

import sys
from pathlib import Path

_SOURCE = Path(__file__).parents[2] / "tools/stack/src"
sys.path.insert(0, str(_SOURCE))
__path__ = [str(_SOURCE / "milestones")]
