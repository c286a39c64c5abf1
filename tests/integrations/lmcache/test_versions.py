"""An LMCache of another release is refused when the module is imported, with both releases."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import pytest

pytestmark = pytest.mark.engines


@pytest.fixture
def again(parts: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports `kvpool.integrations._lmcache` once more beside an lmcache of a release."""
    assert parts
    package = importlib.import_module("kvpool.integrations._lmcache")

    def reload(release: str) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "version", lambda _: release)
            return importlib.reload(package)

    yield reload
    importlib.reload(package)


@pytest.mark.parametrize("release", ["0.5.5", "0.5.7", "0.6.0", "1.0"])
def test_other_releases_are_refused(again: Callable[[str], Any], release: str) -> None:
    message = f"with lmcache from 0.5.6 up to 0.5.7, and {release} is installed"
    with pytest.raises(ImportError, match=message):
        again(release)


@pytest.mark.parametrize("release", ["0.5.6", "0.5.6.post1"])
def test_the_tested_releases_are_taken(again: Callable[[str], Any], release: str) -> None:
    assert again(release).__all__ == []
