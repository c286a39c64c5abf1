"""The ledger is a plugin of the manager: nothing at or below the manager imports it."""

from __future__ import annotations

import ast
from pathlib import Path

import kvpool
from kvpool import ledger, receipts

PACKAGE = Path(kvpool.__file__).parent
BELOW = ("entry", "eviction", "layout", "manager", "plugins", "pool", "receipts")
ALIASES = {"Finding", "LedgerSink", "VerifyReport", "verify"}


def imported(file: Path) -> set[str]:
    """Return the modules that a file imports, and the names that it imports from the ledger."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("kvpool.ledger")}


def test_nothing_at_or_below_the_manager_imports_the_ledger() -> None:
    files = [*PACKAGE.glob("*.py"), *(f for room in BELOW for f in (PACKAGE / room).rglob("*.py"))]
    assert len(files) > 50
    users = {
        file.relative_to(PACKAGE).as_posix(): names for file in files if (names := imported(file))
    }
    # For type checkers only; see tests/receipts/test_names.py for what is loaded.
    assert users == {"receipts/__init__.py": {f"kvpool.ledger.{name}" for name in ALIASES}}


def test_old_names_are_aliases() -> None:
    for name in ALIASES:
        assert getattr(receipts, name) is getattr(ledger, name)
