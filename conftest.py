from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a page to one worker of `pytest -n`: its blocks use the names of those before them."""
    tests = config.rootpath / "tests"
    files = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if config.getoption("dist") != "load" or all(file.is_relative_to(tests) for file in files):
        return None
    return importlib.import_module("xdist.scheduler").LoadFileScheduling(config, log)
