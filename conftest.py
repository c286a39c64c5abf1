from __future__ import annotations

import sys
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# Test helpers are imported as `tests.…`. The root stands at the END of the path, so that the
# tests meet the installed kvpool and never the tree.
sys.path.append(str(Path(__file__).parent))

# `pytest README.md docs` runs the Python blocks of the pages.
pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["*.md", "docs/**/*.md"],
).pytest()
