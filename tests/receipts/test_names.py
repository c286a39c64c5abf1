"""The names of `kvpool.receipts` are loaded when they are asked for, and not before."""

from __future__ import annotations

import ast
import operator
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from kvpool import receipts


def loaded_by(statements: str) -> set[str]:
    """Return the modules that an interpreter loads for some statements."""
    script = f"import sys\n{statements}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines())


def names_for_type_checkers() -> dict[str, str]:
    """Return the names that are imported for type checkers, and the modules that have them."""
    assert receipts.__file__ is not None
    tree = ast.parse(Path(receipts.__file__).read_text(encoding="utf-8"))
    return {
        alias.name: f"{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and f"{node.module}".startswith("kvpool.")
        for alias in node.names
    }


def test_every_name_is_what_its_module_has() -> None:
    homes = names_for_type_checkers()
    assert sorted(receipts.__all__) == sorted(homes)
    for name, module in homes.items():
        assert getattr(receipts, name) is getattr(import_module(module), name)
    assert set(dir(receipts)) >= set(homes)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'kvpool.receipts' has no attribute 'lgr'"):
        operator.attrgetter("lgr")(receipts)


def test_kvpool_loads_no_receipts() -> None:
    loaded = loaded_by("import kvpool")
    assert not {name for name in loaded if name.startswith(("kvpool.receipts.", "kvpool.ledger"))}
    assert not loaded & {"msgspec", "rfc8785", "cryptography", "typer", "rich", "xxhash"}


def test_a_manager_loads_what_it_needs() -> None:
    loaded = loaded_by("import kvpool\nkvpool.KVCacheManager(1024, 'numpy').close()")
    assert "kvpool.receipts._emitter" in loaded
    assert not loaded & {"kvpool.ledger", "rfc8785"}
    without = loaded_by("import kvpool\nkvpool.KVCacheManager(1 << 20, receipts=False).close()")
    assert "kvpool.ledger" not in without
