"""Which benchmarks there are, and what came of running them."""

from __future__ import annotations

import ast
import importlib
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from benchmarks.harness import Report, Run, UnavailableError

__all__ = ["Benchmark", "Outcome", "Status", "discover"]

Status = Literal["measured", "skipped", "failed"]

# What is missing in these is a fault, and not something that a machine need not have.
OURS = ("benchmarks", "kvpool", "kvpool_ctypes", "kvpool_mmap", "kvpool_numpy")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one benchmark: a report, or the reason why there is none."""

    name: str
    about: str
    status: Status
    reason: str
    seconds: float
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A module that defines `run`; it is imported when it runs."""

    name: str
    module: str
    about: str

    def run(self, quick: bool) -> Outcome:
        """Measure, and tell what came of it; nothing that the benchmark raises gets out."""
        start = time.perf_counter()
        status: Status = "measured"
        reason, report = "", None
        try:
            run: Run = importlib.import_module(self.module).run
            report = run(quick)
        except UnavailableError as error:
            status, reason = "skipped", str(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            status = "skipped" if _is_missing_elsewhere(error) else "failed"
            if status == "failed":
                traceback.print_exc(file=sys.stderr)
        took = round(time.perf_counter() - start, 3)
        return Outcome(self.name, self.about, status, reason, took, report)


def discover(package: ModuleType) -> list[Benchmark]:
    """Return the benchmarks of a package, by name.

    They are found by their text: one that cannot be imported here is found all the same.
    """
    found = []
    for directory in package.__path__:
        for path in sorted(Path(directory).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
            if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
                module = f"{package.__name__}.{path.stem}"
                found.append(Benchmark(path.stem, module, _about(tree, path)))
    return found


def _about(tree: ast.Module, path: Path) -> str:
    """Return the first paragraph of a docstring, as one line."""
    text = ast.get_docstring(tree) or ""
    about = " ".join(text.partition("\n\n")[0].split())
    if not about:
        raise ValueError(f"{path.name} does not say what it measures: it has no docstring")
    return about


def _is_missing_elsewhere(error: Exception) -> bool:
    """Tell whether a distribution that is not kvpool's is not installed."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return False
    return error.name.partition(".")[0] not in OURS
