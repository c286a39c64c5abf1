"""Clients that leave or are slow, a full queue, a full pool, and the end of a server."""

from __future__ import annotations

import http.client
import socket
from typing import Any

import pytest

from kvpool import CacheKey
from kvpool.errors import KVPoolError
from kvpool.manager import KVCacheManager
from kvpool.server import bound_socket
from tests.server.conftest import Serve
from tests.support.model_gates import ModelGate, hooked
from tests.support.served import Served, events, serving, until

pytestmark = pytest.mark.transformers

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def ended(served: Served, reason: str = "cancelled", count: int = 1) -> bool:
    finished: Any = served.engine.stats().finished
    return bool(finished[reason] == count)


def leave(connection: http.client.HTTPConnection) -> None:
    """Close a connection at once, as a process that ends does."""
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


# -- clients that leave ------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_it_waits_cancels_its_generation(
    served: Served, lab: Any, stream: bool
) -> None:
    gate = ModelGate()
    with hooked(lab.tiny().model, gate):
        connection = served.start(CHAT, HELLO | {"max_tokens": 100, "stream": stream})
        gate.wait()
        leave(connection)
        until(lambda: b'code="499"' in served.get("/metrics").content)
        gate.open()
        until(lambda: ended(served))
    assert served.engine.stats().completion_tokens < 100


def test_a_client_that_leaves_a_stream_cancels_its_generation(served: Served) -> None:
    connection = served.start(CHAT, HELLO | {"max_tokens": 3000, "stream": True})
    connection.getresponse().read(200)
    leave(connection)
    until(lambda: ended(served))


def test_a_client_that_leaves_before_its_body_is_there_starts_nothing(served: Served) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port)) as connection:
        connection.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
    until(lambda: b'code="499"' in served.get("/metrics").content)
    assert served.engine.stats().accepted == 0


def test_many_clients_that_leave_leave_nothing_behind(
    served: Served, manager: KVCacheManager
) -> None:
    connections = [
        served.start(CHAT, HELLO | {"max_tokens": 500, "stream": number % 2 == 0})
        for number in range(16)
    ]
    until(lambda: served.engine.stats().running > 4)
    for connection in connections:
        leave(connection)
    until(lambda: served.engine.stats().running == served.engine.stats().queued == 0)
    assert served.post(CHAT, HELLO | {"max_tokens": 1}).status == 200
    assert not any(manager.is_open(key) for key in manager.session_keys())


def test_a_client_that_does_not_read_does_not_hold_others(serve: Serve) -> None:
    served = serve(send_buffer=1)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    slow.connect(("127.0.0.1", served.server.port))
    body = b'{"model":"tiny","prompt":"a","max_tokens":200,"logprobs":20,"stream":true}'
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    slow.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    until(lambda: served.engine.stats().running == 1)
    assert served.post(CHAT, HELLO | {"max_tokens": 3}).status == 200
    until(lambda: ended(served, "length", 2))  # its place is free, though it has read nothing
    slow.close()


# -- no room -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_429_with_the_time_to_come_again(
    serve: Serve, lab: Any, stream: bool
) -> None:
    served = serve({"max_sessions": 1, "max_queue": 1})
    gate = ModelGate()
    with hooked(lab.tiny().model, gate):
        first = served.start(CHAT, HELLO | {"max_tokens": 1})
        gate.wait()
        second = served.start(CHAT, HELLO | {"max_tokens": 1})
        until(lambda: served.engine.stats().queued == 1)
        reply = served.post(CHAT, HELLO | {"max_tokens": 1, "stream": stream})
        assert reply.status == 429
        assert int(reply.headers["retry-after"]) >= 1
        assert (reply.error["type"], reply.error["code"]) == ("rate_limit_error", "queue_full")
        gate.open()
        for connection in (first, second):
            assert connection.getresponse().status == 200
            connection.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_pool_is_429_with_the_time_to_come_again(
    serve: Serve, manager: KVCacheManager, stream: bool
) -> None:
    served = serve({"room_timeout": 0.05})
    capacity = manager.pool.capacity
    held = manager.allocate_entry(CacheKey("other", 1), capacity - 4096).data()
    reply = served.post(CHAT, HELLO | {"max_tokens": 100, "stream": stream})
    assert reply.status == 429
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.error["code"] == "pool_full"
    del held
    manager.remove_cache_entry(CacheKey("other", 1))
    assert served.post(CHAT, HELLO | {"max_tokens": 100, "stream": stream}).status == 200


def test_what_the_pool_can_never_hold_is_400(make_manager: Any, lab: Any) -> None:
    small = make_manager(1 << 16)
    engine = lab.make_engine(small)
    with engine, serving(engine, small) as served:
        reply = served.post(CHAT, HELLO | {"max_tokens": 1000})
    assert reply.status == 400
    assert reply.error["code"] == "context_length_exceeded"
    assert "65536" in reply.error["message"]


# -- a model that fails ------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_fails_is_500(
    served: Served, lab: Any, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("out of order")

    with hooked(lab.tiny().model, fail):
        reply = served.post(CHAT, HELLO | {"max_tokens": 3, "stream": stream})
    assert reply.status == 500
    assert reply.error["type"] == "server_error"
    assert "a request failed: " in caplog.text
    assert served.post(CHAT, HELLO | {"max_tokens": 3}).status == 200


def test_a_stream_that_fails_ends_with_the_error(served: Served, lab: Any) -> None:
    steps = iter(range(100))

    def fail_later() -> None:
        if next(steps) == 3:
            raise RuntimeError("out of order")

    with hooked(lab.tiny().model, fail_later):
        reply = served.post(CHAT, HELLO | {"max_tokens": 50, "stream": True})
    assert reply.status == 200
    found = events(reply.content)
    assert "error" in found[-1]
    assert found[-1]["error"]["type"] == "server_error"
    assert "[DONE]" not in found


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_answers_what_it_has_accepted(served: Served, lab: Any, stream: bool) -> None:
    gate = ModelGate()
    with hooked(lab.tiny().model, gate):
        connection = served.start(CHAT, HELLO | {"max_tokens": 20, "stream": stream})
        gate.wait()
        served.server.stop()
        until(lambda: served.engine.is_closed)
        with pytest.raises(ConnectionError):
            served.get("/health")
        gate.open()
        response = connection.getresponse()
        content = response.read()
        connection.close()
    assert response.status == 200
    assert content.endswith(b"data: [DONE]\n\n") == stream
    served.wait()
    assert ended(served, "length")


def test_a_server_ends_what_takes_too_long(serve: Serve) -> None:
    served = serve(drain_seconds=0.05)
    connection = served.start(CHAT, HELLO | {"max_tokens": 4000, "stream": True})
    response = connection.getresponse()
    served.server.stop()
    found = events(response.read())
    connection.close()
    assert found[-1]["error"]["code"] == "server_stopping"
    served.wait()
    assert ended(served)


def test_a_server_that_is_told_twice_ends_at_once(served: Served) -> None:
    connection = served.start(CHAT, HELLO | {"max_tokens": 4000, "stream": True})
    response = connection.getresponse()
    served.server.stop()
    until(lambda: served.engine.is_closed)
    served.server.stop()
    served.wait()
    assert served.server.was_hurried
    with pytest.raises((OSError, http.client.HTTPException)):
        response.read()
    connection.close()
    assert ended(served)


def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    with bound_socket("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(KVPoolError, match=f"cannot listen on 127.0.0.1, port {port}: "):
            bound_socket("127.0.0.1", port)


def test_a_host_that_is_unknown_is_an_error() -> None:
    with pytest.raises(KVPoolError, match=r"cannot listen on nowhere\.invalid, port 0: "):
        bound_socket("nowhere.invalid", 0)


def test_ipv6() -> None:
    with bound_socket("::1", 0) as listener:
        assert listener.family is socket.AF_INET6
