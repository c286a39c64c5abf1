"""Reading metrics over HTTP, and the text format of Prometheus."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kvpool import KVCacheManager
from kvpool.cli._scrape import Scrape, ScrapeError, Source, metrics_url
from kvpool.integrations.metrics import PoolCollector
from tests.support.http_answers import Answer, AnsweringServer

METRICS = b"kvpool_entries 1.0\n"


@pytest.fixture
def registry() -> CollectorRegistry:
    """Metrics of every kind, with labels that are hard to read."""
    registry = CollectorRegistry()
    counter = Counter("kvpool_odd", "Odd.", ["name", "other"], registry=registry)
    names = ['a"b', "a\\b", "a\nb", "a\\nb", 'a},b="c" 5', "", "é", "a\u2028b"]
    for number, name in enumerate(names):
        counter.labels(name, "x").inc(number + 0.5)
    Histogram("kvpool_times_seconds", "Times.", registry=registry).observe(0.2)
    Info("kvpool_model", "Model.", registry=registry).info({"model": "tiny"})
    return registry


def test_a_text_is_read_as_the_parser_of_prometheus_does(registry: CollectorRegistry) -> None:
    with KVCacheManager(1 << 20, "numpy", receipts=False) as manager:
        registry.register(PoolCollector(manager))
        text: str = generate_latest(registry).decode()
    scrape = Scrape(text, 0.0)
    expected = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    ]
    assert {sample.name for sample in expected} == set(scrape)
    for name, labels, value, *_ in expected:
        assert scrape.total(name, **labels) == value
    assert scrape.by("kvpool_odd_total", "name")['a},b="c" 5'] == 4.5


def test_samples_are_added_up() -> None:
    text = 'a{x="1",y="1"} 1\na{x="1",y="2"} 2 1700000000000\na{x="2",y="1"} 4\nb +Inf\n'
    scrape = Scrape(text, 0.0)
    assert scrape.total("a") == 7
    assert scrape.total("a", x="1") == 3
    assert scrape.by("a", "y") == {"1": 5, "2": 2}
    assert scrape.by("a", "z") == {"": 7}
    assert scrape.total("missing") == 0
    assert scrape.by("missing", "x") == {}
    assert math.isinf(scrape.total("b"))
    assert "a" in scrape
    assert "missing" not in scrape


@pytest.mark.parametrize(
    "line", ["# HELP a b", "a", "a x", "a{ 1", "{} 1", "1a 1", "a 1 2 3", "<html>"]
)
def test_a_line_that_is_not_a_sample_is_passed_over(line: str) -> None:
    assert list(Scrape(f"{line}\nb 1", 0.0)) == ["b"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/metrics"),
        ("http://host", "http://host/metrics"),
        ("https://host:1/", "https://host:1/metrics"),
        ("http://host/kv/metrics?x=1#y", "http://host/kv/metrics?x=1"),
        ("[::1]:9", "http://[::1]:9/metrics"),
    ],
)
def test_an_address_is_completed(given: str, expected: str) -> None:
    assert metrics_url(given) == expected


@pytest.mark.parametrize(
    "given", ["", "http://", "file:///etc/passwd", "ftp://host", "host:0", "host:99999", "host:x"]
)
def test_a_bad_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="invalid address") as caught:
        metrics_url(given)
    assert repr(given) in str(caught.value)


def always(answer: Answer) -> AnsweringServer:
    return AnsweringServer(lambda _headers: answer)


def read(server: AnsweringServer, key: str | None = None) -> str:
    return Source(metrics_url(server.url), key).read()


def test_metrics_are_read_with_the_key() -> None:
    def answer(headers: Mapping[str, str]) -> Answer:
        return Answer(METRICS) if headers.get("Authorization") == "Bearer k" else Answer(b"", 401)

    with AnsweringServer(answer) as server:
        assert read(server, "k") == METRICS.decode()
        with pytest.raises(ScrapeError, match=r"HTTP 401 .*--api-key-file"):
            read(server)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(b"", 404), "HTTP 404 Not Found"),
        (Answer(b"", 500), "HTTP 500"),
        (Answer(b"", 302, {"Location": "http://127.0.0.1:1/"}), "HTTP 302 Found"),
        (Answer(b"<html>hello</html>"), "no metrics of kvpool"),
        (Answer(b"python_info 1\n"), "no metrics of kvpool"),
        (Answer(b"\xff\xfe"), "no metrics of kvpool"),
        (Answer(METRICS * 1_000_000), "more than 16 MiB"),
    ],
)
def test_what_is_not_metrics_is_an_error_that_names_the_address(
    answer: Answer, reason: str
) -> None:
    with always(answer) as server, pytest.raises(ScrapeError, match=reason) as caught:
        read(server)
    assert server.url in str(caught.value)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with always(Answer()) as server:
        pass
    with pytest.raises(ScrapeError, match=f"{server.url}/metrics: Connection refused"):
        read(server)


def test_a_server_that_says_nothing_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = metrics_url(f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ScrapeError, match="timed out"):
            Source(url, timeout=0.05).read()


def test_a_server_that_speaks_something_else_is_an_error_on_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = Source(metrics_url(f"127.0.0.1:{listener.getsockname()[1]}"))

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-\x1b[2J\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ScrapeError) as caught:
            source.read()
        thread.join()
    assert str(caught.value).isprintable()


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with always(Answer(METRICS)) as server:
        assert read(server) == METRICS.decode()
