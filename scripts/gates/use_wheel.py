"""Import every module of an installed distribution, and resolve its entry points.

It runs in the bare environment of the gate `build`, which holds what the metadata asks for and
nothing else: a module that needs more than that has an undeclared dependency. Only what an
extra brings may be missing.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import PurePosixPath

# Whoever imports the suites for plugins is a test of pytest already.
_SUITES = {"kvpool.testing": "pytest"}


# Distributions whose module is not called as they are.
_MODULES = {
    "backports-zstd": "backports",
    "llama-cpp-python": "llama_cpp",
    "mooncake-transfer-engine-non-cuda": "mooncake",
    "opentelemetry-api": "opentelemetry",
    "pyzmq": "zmq",
    "vl-convert-python": "vl_convert",
}


def may_lack(module: str, optional: set[str]) -> set[str]:
    """Return what need not be there for a module: what extras bring, and pytest for suites."""
    fronts = [front for front in _SUITES if f"{module}.".startswith(f"{front}.")]
    return optional.union(_SUITES[front] for front in fronts)


def modules(distribution: metadata.Distribution) -> Iterator[str]:
    """Yield the name of each module that a distribution has installed."""
    for file in distribution.files or []:
        path = PurePosixPath(str(file))
        if path.suffix == ".py" and ".." not in path.parts and path.stem != "__main__":
            parts = path.with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def of_extras(distribution: metadata.Distribution) -> set[str]:
    """Return the top-level modules of what the extras ask for, as their names have it."""
    found: set[str] = set()
    for text in distribution.requires or []:
        if "extra ==" in text:
            (name,) = re.findall(r"^[\w.-]+", text)
            found.add(_MODULES.get(name.lower(), name.lower().replace("-", "_")))
    return found


def missing(error: BaseException) -> Iterator[str]:
    """Yield the modules that an error, and those behind it, say are not there."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, ModuleNotFoundError) and behind.name is not None:
            yield behind.name.partition(".")[0]
        behind = behind.__cause__ or behind.__context__


def main(name: str) -> int:
    """Import everything of a distribution; return the exit status."""
    distribution = metadata.distribution(name)
    optional = of_extras(distribution)
    problems: list[str] = []
    found = list(modules(distribution))
    for module in found:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever it is, it is reported
            if not may_lack(module, optional).intersection(missing(error)):
                problems.append(f"{module}: {type(error).__name__}: {error}")
    points = distribution.entry_points
    for point in points:
        try:
            point.load()
        except Exception as error:  # whatever it is, it is reported
            if not optional.intersection(missing(error)):
                text = f"{type(error).__name__}: {error}"
                problems.append(f"entry point {point.group} {point.name} = {point.value}: {text}")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(found)} modules of {name} imported, {len(points)} entry points resolved")
    return 1 if problems or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
