"""The packages of kvpool: what they may import, and the table of them in `docs/architecture.md`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError
from itertools import pairwise
from pathlib import Path

import pytest

from scripts import architecture
from tests.support.docs_pages import ROOT

# From the command line down to the bytes. A package imports none that stands in a row above it.
ORDER = (
    ("cli",),
    ("sizing", "serving"),
    ("replay", "integrations", "testing"),
    ("manager",),
    ("entry",),
    ("pool",),
    ("arena",),
)
CONTRACT = {"kvpool.arena", "kvpool.hookspecs", "kvpool.descriptors", "kvpool.errors"}
ABOVE = [
    (upper, lower)
    for row, uppers in enumerate(ORDER)
    for upper in uppers
    for lowers in ORDER[row + 1 :]
    for lower in lowers
]


@pytest.fixture(scope="module")
def packages() -> dict[str, set[str]]:
    """What each package imports, directly or through others."""
    graph = architecture.arrows()
    return {name: reachable(graph, name) for name in graph}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A package `kvpool` of three small ones: `top` imports `middle`, which imports `low`."""
    folder = tmp_path / "kvpool"
    texts = {
        "__init__.py": '"""The front."""\nfrom kvpool.top import A\n',
        "top.py": '"""The top."""\nimport json\nfrom kvpool.middle import A\n',
        "middle/__init__.py": '"""The middle.\n\nMore words."""\nfrom kvpool.middle._a import A\n',
        "middle/_a.py": "def A():\n    from kvpool import low\n",
        "low.py": '"""The bottom."""\n',
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def reachable(graph: Mapping[str, set[str]], name: str) -> set[str]:
    """Return the packages that one imports, directly or through others."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def modules() -> dict[str, set[str]]:
    """Return which modules of kvpool each of its modules imports when it is loaded or runs."""
    files = {dotted(file): file for own in architecture.files().values() for file in own}
    return {
        name: {owner(target, files) for target in architecture.imports(file)} - {name, ""}
        for name, file in files.items()
    }


def dotted(file: Path) -> str:
    """Return the name of the module in a file."""
    path = file.relative_to(architecture.ROOT).with_suffix("")
    return ".".join(path.parts).removesuffix(".__init__")


def owner(name: str, known: Mapping[str, Path]) -> str:
    """Return the module that a dotted name is or lies in; an empty text if it is not of kvpool."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def test_packages_do_not_import_each_other_in_a_circle() -> None:
    floors = architecture.floors(architecture.arrows())
    assert sorted(name for floor in floors for name in floor) == sorted(architecture.files())


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = modules()
    assert "kvpool.pool._block" in graph["kvpool.pool"]
    assert architecture.floors(graph)


@pytest.mark.parametrize(("upper", "lower"), ABOVE)
def test_a_package_imports_only_from_those_below(
    packages: dict[str, set[str]], upper: str, lower: str
) -> None:
    assert upper not in packages[lower]


def test_the_order_is_one_of_imports(packages: dict[str, set[str]]) -> None:
    """Each row is imported from above, so that the test before does not hold for want of arrows."""
    chain = ("cli", "replay", "manager", "entry", "pool", "arena")
    assert all(lower in packages[upper] for upper, lower in pairwise(chain))


def test_nothing_that_the_manager_imports_imports_the_ledger(
    packages: dict[str, set[str]],
) -> None:
    assert "ledger" not in packages["manager"]
    assert "ledger" in packages["cli"]


def test_a_manager_is_made_without_the_ledger() -> None:
    program = (
        "import sys, kvpool; kvpool.KVCacheManager(1 << 20).close();"
        "print([name for name in sys.modules if name.startswith('kvpool.ledger')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("backend", ["kvpool_numpy", "kvpool_mmap", "kvpool_ctypes"])
def test_a_backend_imports_the_contract_alone(backend: str) -> None:
    files = sorted((ROOT / "backends" / backend).rglob("*.py"))
    names = [name for file in files for name in architecture.imports(file, typing=True)]
    own = {".".join(name.split(".")[:2]) for name in names if name.split(".")[0] == "kvpool"}
    assert own
    assert own <= CONTRACT


def test_the_core_imports_no_backend() -> None:
    files = [file for own in architecture.files().values() for file in own]
    names = [name for file in files for name in architecture.imports(file, typing=True)]
    assert {name for name in names if name.startswith("kvpool_")} == set()


def test_the_table_shows_the_imports() -> None:
    assert architecture.check() == ""


def test_a_table_lists_each_package_above_what_it_imports(sources: Path) -> None:
    assert architecture.render(sources) == (
        "| package | what it is | what it imports |\n"
        "| --- | --- | --- |\n"
        "| `kvpool` | The front. | `top` |\n"
        "| `top` | The top. | `middle` |\n"
        "| `middle` | The middle. | `low` |\n"
        "| `low` | The bottom. |  |\n"
    )


def test_an_import_for_the_type_checker_is_not_an_arrow(sources: Path) -> None:
    text = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from kvpool.top import A\nelse:\n    import kvpool\n"
    )
    (sources / "low.py").write_text(text, encoding="utf-8")
    assert architecture.arrows(sources)["low"] == {"kvpool"}


def test_a_circle_is_an_error_that_names_it(sources: Path) -> None:
    (sources / "low.py").write_text("import kvpool.top\n", encoding="utf-8")
    with pytest.raises(CycleError) as caught:
        architecture.render(sources)
    assert set(caught.value.args[1]) == {"top", "middle", "low"}


def test_a_package_without_a_docstring_is_an_error(sources: Path) -> None:
    (sources / "low.py").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"low\.py has no docstring"):
        architecture.render(sources)


def test_a_page_is_written_and_then_found_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- packages -->\n<!-- /packages -->\nAfter.\n", encoding="utf-8")
    options = ["--page", str(page)]
    assert architecture.main([*options, "--check"]) == 1
    assert "does not show the imports" in capsys.readouterr().err
    assert architecture.main(options) == 0
    assert architecture.main([*options, "--check"]) == 0
    written = page.read_text(encoding="utf-8")
    assert written.startswith("Before.\n\n<!-- packages -->\n\n| package |")
    assert written.endswith("|\n\n<!-- /packages -->\nAfter.\n")


def test_a_page_without_marks_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("No table.\n", encoding="utf-8")
    assert architecture.main(["--page", str(page)]) == 1
    assert "lacks its marks" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "No table.\n"
