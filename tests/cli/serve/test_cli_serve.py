"""`kvpool serve` as a user runs it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import needs, terminal
from tests.support.called import run
from tests.support.redis_server import RedisServer
from tests.support.serve_process import ServeProcess

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "logit_bias": {"1": -100},  # the token that ends an answer of the tiny model
}

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


@pytest.fixture
def _torch() -> None:
    needs.transformers()


def ask(
    port: int, method: str, path: str, body: Any = None, key: str | None = None
) -> tuple[int, bytes]:
    connection = begin(port, method, path, body, key)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def begin(
    port: int, method: str, path: str, body: Any = None, key: str | None = None
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection


def said(lines: list[str]) -> Iterator[str]:
    return (line for line in lines if line.startswith("kvpool: "))


@needs_signals
@pytest.mark.transformers
@pytest.mark.usefixtures("_torch")
def test_sigterm_lets_it_answer_what_it_has_accepted() -> None:
    with ServeProcess("--access-log", KVPOOL_API_KEY="one two") as it:
        port = it.wait_until_ready().port
        assert ask(port, "GET", "/health")[0] == 200
        assert ask(port, "GET", "/v1/models")[0] == 401
        assert ask(port, "GET", "/v1/models", key="two")[0] == 200
        assert b"process_resident_memory_bytes" in ask(port, "GET", "/metrics", key="one")[1]
        body = HELLO | {"max_tokens": 300, "stream": True}
        connection = begin(port, "POST", CHAT, body, key="one")
        response = connection.getresponse()
        it.send(signal.SIGTERM)
        it.wait_for("stopping after 1 request; again to stop at once")
        assert response.read().endswith(b"data: [DONE]\n\n")
        connection.close()
        assert it.leave() == 0
    assert any('"GET /health HTTP/1.1" 200' in line for line in it.errors)
    assert not any("Traceback" in line for line in it.errors)


@needs_signals
@pytest.mark.transformers
@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_second_signal_ends_it_at_once(number: signal.Signals, code: int) -> None:
    with ServeProcess("--backend", "mmap") as it:
        port = it.wait_until_ready().port
        connection = begin(port, "POST", CHAT, HELLO | {"max_tokens": 4000, "stream": True})
        response = connection.getresponse()
        it.send(number)
        it.wait_for("stopping after 1 request")
        it.send(number)
        assert it.leave() == code
        with pytest.raises((OSError, http.client.HTTPException)):
            response.read()
        connection.close()
    assert not any("Traceback" in line for line in it.errors)


@needs_signals
@pytest.mark.transformers
@pytest.mark.usefixtures("_torch")
def test_ctrl_c_ends_it_while_nothing_is_asked(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\ntwo\n", encoding="utf-8")
    options = ["--name", "mine", "--api-key-file", str(tmp_path / "keys"), "--api-key", "three"]
    with ServeProcess("--host", "localhost", *options) as it:
        port = it.wait_until_ready().port
        for key in ("one", "two", "three"):
            status, content = ask(port, "GET", "/v1/models", key=key)
            assert (status, json.loads(content)["data"][0]["id"]) == (200, "mine")
        it.send(signal.SIGINT)
        assert it.leave() == 130
    assert list(said(it.errors))[1:] == ["kvpool: stopping"]


def test_a_port_that_is_taken_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = terminal.run("serve", "--tiny", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"kvpool: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "some.example"])
def test_other_machines_are_not_served_without_a_key(host: str) -> None:
    done = run("serve", "--tiny", "--host", host)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--host {host} lets other machines use the model" in done.stderr
    assert "--api-key-file" in done.stderr


@pytest.mark.parametrize("host", ["192.0.2.1"])
def test_other_machines_are_served_with_a_warning_if_that_is_wanted(host: str) -> None:
    done = terminal.run("serve", "--tiny", "--host", host, "--insecure")
    assert done.returncode == 1  # the address is not one of this machine
    assert f"WARNING: everyone who can reach {host} may use the model" in done.stderr
    with_key = terminal.run("serve", "--tiny", "--host", host, KVPOOL_API_KEY="x")
    assert with_key.returncode == 1
    assert "WARNING" not in with_key.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--salt-from", "host"], "invalid source 'host'; use key, user or none"),
        (["--port", "70000"], "'--port'"),
        (["--max-queue", "0"], "'--max-queue'"),
        (["--max-body", "much"], "invalid size 'much'"),
        (["--deadline", "0"], "'--deadline'"),
        (["--deadline", "inf"], "'--deadline'"),
        (["--drain-seconds", "inf"], "'--drain-seconds'"),
        (["--drain-seconds", "nan"], "'--drain-seconds'"),
        (["--api-key-file", "missing"], "cannot read missing"),
        (["--api-key-file", "/dev/null"], "/dev/null has no key"),
    ],
)
def test_a_bad_value_is_bad_usage(arguments: list[str], reason: str) -> None:
    done = run("serve", "--tiny", *arguments, COLUMNS="200")
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


def test_a_key_that_no_header_can_have_is_refused_and_not_shown() -> None:
    done = run("serve", "--tiny", "--port", "0", "--api-key", "not good")
    assert done.returncode == 2
    assert "without spaces" in done.stderr
    assert "not good" not in done.stderr


@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "is not a directory"), (".", "config.json is missing")]
)
def test_a_model_that_is_not_there_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    done = run("serve", str(tmp_path / name))
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


# -- tiers ----------------------------------------------------------------------------------

LONG = HELLO | {
    "messages": [{"role": "user", "content": "tell me of caches and tiers " * 8}],
    "max_tokens": 4,
    "temperature": 0,
}


def cached(port: int) -> tuple[int, int, str]:
    """Return how many tokens of a long prompt were cached, how many it has, and the answer."""
    status, content = ask(port, "POST", CHAT, LONG)
    assert status == 200, content
    answer = json.loads(content)
    usage = answer["usage"]
    known = usage["prompt_tokens_details"]["cached_tokens"]
    return known, usage["prompt_tokens"], answer["choices"][0]["message"]["content"]


@needs_signals
@pytest.mark.transformers
@pytest.mark.usefixtures("_torch")
def test_a_later_server_loads_what_an_earlier_one_computed(tmp_path: Path) -> None:
    tier = f"disk:{tmp_path}/kv?decline=no"
    with ServeProcess("--tier", tier) as it:
        port = it.wait_until_ready().port
        assert "over disk:" in it.errors[-1]
        known, count, said_first = cached(port)
        assert known == 0
        it.send(signal.SIGTERM)
        assert it.leave() == 0
    with ServeProcess("--tier", tier) as it:
        port = it.wait_until_ready().port
        known, _, said_then = cached(port)
        assert count - 64 <= known < count  # whole chunks of 64 tokens
        assert said_then == said_first
        metrics = ask(port, "GET", "/metrics")[1].decode()
        loaded = [
            line
            for line in metrics.splitlines()
            if line.startswith("kvpool_tier_loaded_tokens_total{")
        ]
        assert [float(line.split()[-1]) for line in loaded] == [known]
        it.send(signal.SIGTERM)
        assert it.leave() == 0
    assert not any("Traceback" in line for line in it.errors)


@needs_signals
@pytest.mark.transformers
@pytest.mark.integration
@pytest.mark.usefixtures("_torch")
def test_a_server_of_a_tier_that_is_killed_leaves_answers_as_they_are(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis, ServeProcess("--tier", redis.url) as it:
        port = it.wait_until_ready().port
        _, _, before = cached(port)
        redis.kill()
        assert cached(port)[2] == before
        other = LONG | {"messages": [{"role": "user", "content": "something else " * 20}]}
        assert ask(port, "POST", CHAT, other)[0] == 200
        it.send(signal.SIGTERM)
        assert it.leave() == 0
    assert not any("Traceback" in line for line in it.errors)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("disk:{}/file/below", "cannot open the tier disk:"),
        ("tape:/dev/st0", "cannot open the tier tape:/dev/st0: "),
        ("redis://user:secret@127.0.0.1:1/0", "cannot open the tier redis://"),
        ("memory:?decline=perhaps", "the option 'decline' must be 'yes' or 'no', not 'perhaps'"),
    ],
)
@pytest.mark.transformers
@pytest.mark.usefixtures("_torch")
def test_a_tier_that_cannot_be_opened_is_named(tmp_path: Path, url: str, reason: str) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = terminal.run("serve", "--tiny", "--port", "0", "--tier", url.format(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr
