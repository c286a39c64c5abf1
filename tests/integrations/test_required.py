"""The package that an integration needs, and its release."""

from __future__ import annotations

import re
import sys
from importlib import metadata

import pytest

from kvpool.integrations._required import required


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "absent", None)
    with pytest.raises(ImportError, match=r'need the-absent: install "kvpool\[any\]"'):
        required("the caches", "absent", "any", distribution="the-absent")


@pytest.mark.parametrize("found", ["5.18.9", "5", "6.0.0", "6.0.0.dev0", "17+local.1"])
def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: found)
    message = "the caches are tested with json from 5.19 up to 6, and {} is installed"
    with pytest.raises(ImportError, match=re.escape(message.format(found))):
        required("the caches", "json", "any", lowest=(5, 19), below=(6,))


@pytest.mark.parametrize("found", ["5.19", "5.19.0", "5.24.1+cpu", "5.99.dev0"])
def test_a_release_that_is_tested_is_accepted(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: found)
    required("the caches", "json", "any", lowest=(5, 19), below=(6,))


def test_a_module_without_metadata_is_accepted() -> None:
    required("the caches", "json", "any", lowest=(5, 19), below=(6,))
