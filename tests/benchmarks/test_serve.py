"""The benchmark of servers, with the tiny model on all sides."""

from __future__ import annotations

import os

import pytest

from benchmarks import serve
from benchmarks.harness import Report, UnavailableError
from tests.support import needs

pytestmark = pytest.mark.transformers


def test_all_servers_are_asked_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    needs.transformers()
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    tiny = serve.our_command("--tiny", "--name", "model")
    report = Report("serving")
    serve.measure(report, {serve.OURS: tiny, serve.LLAMA: tiny}, 2, 2, 1, 2)
    figures = [(figure.subject, figure.unit, figure.rounds) for figure in report.measurements]
    assert figures == [
        (subject, unit, rounds)
        for unit, rounds in (("/s", 2), ("/s", 2), ("ms", 4), ("tokens", 2))
        for subject in (serve.OURS, serve.LLAMA)
    ]
    lengths = [figure.value for figure in report.measurements if figure.unit == "tokens"]
    assert all(0 < length <= serve.ANSWER for length in lengths)
    assert [ratio.unit for ratio in report.ratios] == [*["times as many"] * 2, "times as long"]


def test_a_server_that_ends_is_told() -> None:
    with pytest.raises(UnavailableError, match="ended with 1"), serve.running(["false"]):
        pass


def test_a_python_without_the_peer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPOOL_BENCH_LLAMA", "/bin/false")
    with pytest.raises(UnavailableError, match="/bin/false has no server of llama-cpp-python"):
        serve.llama_command("model.gguf")
