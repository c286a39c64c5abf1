"""The packages of kvpool: what each imports, and the table of them in `docs/architecture.md`.

A package here is a package or a module directly below `kvpool`; `kvpool/__init__.py` itself is
the package `kvpool`. Its imports are read from its files. An import that only a type checker
reads (``if TYPE_CHECKING:``) does not count: it does not exist when the program runs.

python -m scripts.architecture [--page FILE] [--check]
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

__all__ = ["PAGE", "SOURCES", "arrows", "check", "files", "floors", "imports", "main", "render"]

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "kvpool"
PAGE = ROOT / "docs/architecture.md"

_BEGIN, _END = "<!-- packages -->\n", "<!-- /packages -->"
_COLUMNS = ("package", "what it is", "what it imports")


class _Imports(ast.NodeVisitor):
    """The dotted names that a module imports when it runs, in `names`."""

    def __init__(self, *, typing: bool) -> None:
        self.names: list[str] = []
        self._typing = typing

    def visit_Import(self, node: ast.Import) -> None:
        self.names += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module and not node.level:
            self.names += [f"{node.module}.{alias.name}" for alias in node.names]

    def visit_If(self, node: ast.If) -> None:
        checking = ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for one in [*(() if checking and not self._typing else node.body), *node.orelse]:
            self.visit(one)


def imports(file: Path, *, typing: bool = False) -> list[str]:
    """Return the dotted names that a file imports, inside of functions as well.

    ``from a import b`` gives ``a.b``, where `b` may be a module or a name of `a`.

    Parameters
    ----------
    file : Path
        A Python file.
    typing : bool, default: False
        Whether imports under ``if TYPE_CHECKING:`` count.
    """
    return [*_imports_of(file.read_text(encoding="utf-8"), typing)]


@functools.cache
def _imports_of(source: str, typing: bool, /) -> tuple[str, ...]:
    visitor = _Imports(typing=typing)
    visitor.visit(ast.parse(source))
    return tuple(visitor.names)


def files(sources: Path = SOURCES) -> dict[str, list[Path]]:
    """Return the files of each package directly below a folder.

    The ``__init__.py`` of the folder is a package of its own, with the name of the folder.
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(sources.rglob("*.py")):
        first = file.relative_to(sources).parts[0].removesuffix(".py")
        found.setdefault(sources.name if first == "__init__" else first, []).append(file)
    return found


def arrows(sources: Path = SOURCES) -> dict[str, set[str]]:
    """Return which other packages each package imports."""
    packages = files(sources)
    front = sources.name

    def targets(file: Path) -> Iterator[str]:
        for first, *rest in (name.split(".") for name in imports(file)):
            if first == front:  # `from kvpool import CacheKey` imports the package `kvpool`
                yield rest[0] if rest and rest[0] in packages else front

    return {
        name: {target for file in own for target in targets(file)} - {name}
        for name, own in packages.items()
    }


def floors(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return packages from top to bottom, so that each one imports only from later lists.

    Raises
    ------
    graphlib.CycleError
        Some packages import each other in a circle. Its second argument is the circle.
    """
    height: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        height[name] = max((height[below] + 1 for below in graph[name]), default=0)
    highest = max(height.values(), default=-1)
    levels = range(highest, -1, -1)
    return [sorted(name for name in height if height[name] == level) for level in levels]


def render(sources: Path = SOURCES) -> str:
    """Return the table of the packages below a folder, as Markdown.

    Raises
    ------
    graphlib.CycleError
        Some packages import each other in a circle.
    ValueError
        A package has no docstring.
    """
    graph, packages = arrows(sources), files(sources)
    order = [name for floor in floors(graph) for name in floor]
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    for name in order:
        below = [f"`{other}`" for other in order if other in graph[name]]
        rows.append((f"`{name}`", _about(packages[name][0]), " ".join(below)))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def check(page: Path = PAGE, sources: Path = SOURCES) -> str:
    """Return what is wrong with the table of a page; an empty text if nothing is."""
    text = page.read_text(encoding="utf-8")
    if _with_table(text, render(sources)) != text:
        return f"{page} does not show the imports of today: python -m scripts.architecture"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the table; return 1 if it is wrong, or cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m scripts.architecture", description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args(arguments)
    page: Path = options.page
    try:
        if options.check:
            problem = check(page)
        else:
            text = _with_table(page.read_text(encoding="utf-8"), render())
            page.write_text(text, encoding="utf-8", newline="\n")
            problem = ""
    except CycleError as error:
        problem = f"packages import each other in a circle: {' -> '.join(error.args[1])}"
    except ValueError as error:
        problem = str(error)
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


def _about(file: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{file} has no docstring; its first line goes into the table")
    return docstring.splitlines()[0].replace("|", "\\|")


def _with_table(text: str, table: str) -> str:
    """Return the text of a page with the table between its marks replaced."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page lacks its marks: {_BEGIN.strip()} and {_END}")
    return f"{before}{begin}\n{table}\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
