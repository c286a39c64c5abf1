from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support import needs


def test_traces_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPOOL_TRACES", str(tmp_path))
    assert needs.traces() == tmp_path


def test_missing_traces_skip_with_the_place_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVPOOL_TRACES", str(tmp_path / "nowhere"))
    monkeypatch.delenv("KVPOOL_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"needs traces: .*nowhere"):
        needs.traces()


def test_what_is_required_fails_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVPOOL_TRACES", str(tmp_path / "nowhere"))
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises from now on
    monkeypatch.setenv("KVPOOL_REQUIRE", "torch, traces,transformers")
    with pytest.raises(pytest.fail.Exception, match="asks for traces"):
        needs.traces()
    with pytest.raises(pytest.fail.Exception, match="asks for torch"):
        needs.torch()
    with pytest.raises(pytest.fail.Exception, match="asks for transformers"):
        needs.transformers()


def test_what_is_not_required_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("KVPOOL_REQUIRE", "traces")
    with pytest.raises(pytest.skip.Exception, match="needs torch"):
        needs.torch()
