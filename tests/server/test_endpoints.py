"""The endpoints over plain HTTP, as curl, a browser or Prometheus meet them."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from kvpool.manager import KVCacheManager
from kvpool.server import SaltFrom
from tests.server.conftest import Serve
from tests.support.model_gates import ModelGate, hooked
from tests.support.prometheus import families, problems
from tests.support.served import Served, events

pytestmark = pytest.mark.transformers

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def test_a_stream_is_server_sent_events(served: Served) -> None:
    reply = served.post(CHAT, HELLO | {"max_tokens": 4, "stream": True})
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache"
    *chunks, done = events(reply.content)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert "usage" not in chunks[0]


def test_a_chunk_without_text_is_not_sent(served: Served) -> None:
    """Some bytes of a character are no text yet."""
    body = {"model": "tiny", "prompt": "a", "max_tokens": 3, "stream": True, "stop": ["never"]}
    *chunks, _done = events(served.post("/v1/completions", body).content)
    texts = [chunk["choices"][0]["text"] for chunk in chunks[:-1]]
    assert all(texts)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1", 404),
        ("GET", "/", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/models/other", 404),
    ],
)
def test_a_path_that_is_not_there_is_an_error_in_json(
    served: Served, method: str, path: str, status: int
) -> None:
    reply = served.ask(method, path)
    assert reply.status == status
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "kind", "status", "reason"),
    [
        (b"{}", "text/plain", 415, "must be application/json, not 'text/plain'"),
        (b"{}", "", 415, "must be application/json"),
        (b"{", "application/json; charset=utf-8", 400, "the body is not JSON"),
        (b"", "application/json", 400, "the body is not JSON"),
        (b"{}", "Application/JSON", 400, "model is missing"),
        (b" " * 2000, "application/json", 413, "more than 1000 bytes"),
    ],
)
def test_a_bad_body_is_refused(
    serve: Serve, content: bytes, kind: str, status: int, reason: str
) -> None:
    served = serve(max_body=1000)
    for path in (CHAT, "/v1/completions"):
        reply = served.ask("POST", path, content, {"Content-Type": kind} if kind else {})
        assert reply.status == status
        assert reason in reply.error["message"]
    assert served.engine.stats().accepted == 0


def test_a_body_of_unknown_length_is_limited_too(serve: Serve) -> None:
    served = serve(max_body=1000)
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port)) as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come_is_given_up(serve: Serve) -> None:
    served = serve(body_seconds=0.05)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port)) as connection:
        connection.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"model": "other"}, 404, "there is no model 'other'; this server has 'tiny'"),
        ({"temperature": 3}, 400, "temperature: expected `float` <= 2.0, not 3"),
        ({"max_tokens": 5000}, 400, "exceed the 4096 tokens of the model's context"),
        ({"n": 3}, 400, "only 1 is accepted, not 3"),
        ({"logit_bias": {"100000": 1}}, 400, "100000"),
    ],
)
def test_a_bad_request_is_refused_and_leaves_nothing(
    served: Served, fields: dict[str, Any], status: int, reason: str
) -> None:
    for stream in (False, True):
        reply = served.post(CHAT, HELLO | fields | {"stream": stream})
        assert reply.status == status
        assert reason in reply.error["message"]


def test_tokens_that_the_model_does_not_know_are_refused(served: Served) -> None:
    reply = served.post("/v1/completions", {"model": "tiny", "prompt": [1, 10**6]})
    assert reply.status == 400
    assert "1000000" in reply.error["message"]


def test_a_deadline_cuts_an_answer_off(serve: Serve) -> None:
    served = serve(deadline=0.2)
    reply = served.post(CHAT, HELLO | {"max_tokens": 4000})
    (choice,) = reply.json["choices"]
    assert choice["finish_reason"] == "length"
    assert reply.json["usage"]["completion_tokens"] < 4000


# -- keys and tenants --------------------------------------------------------------------------


def test_everything_but_health_asks_for_the_key(serve: Serve) -> None:
    served = serve(keys=["secret", "other"])
    for path in ("/v1/models", "/v1/models/tiny", "/metrics"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            reply = served.get(path, **headers)
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.error["code"] == "invalid_api_key"
        assert served.get(path, Authorization="Bearer secret").status == 200
        assert served.get(path, Authorization="bearer other").status == 200
    assert served.post(CHAT, HELLO).status == 401
    assert served.get("/health").status == 200


def cached(served: Served, **options: Any) -> int:
    headers = {"Authorization": f"Bearer {options.pop('key', 'none')}"}
    reply = served.post(CHAT, HELLO | {"max_tokens": 1} | options, **headers)
    assert reply.status == 200, reply.content
    return int(reply.json["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_tenants_with_other_keys_share_nothing(serve: Serve) -> None:
    served = serve(keys=["a", "b"])
    assert cached(served, key="a") == 0
    assert cached(served, key="b") == 0
    assert cached(served, key="a") > 0


def test_tenants_share_if_that_is_wanted(serve: Serve) -> None:
    served = serve(keys=["a", "b"], salt_from=SaltFrom.NONE)
    assert cached(served, key="a") == 0
    assert cached(served, key="b") > 0


def test_users_are_kept_apart_if_that_is_wanted(serve: Serve) -> None:
    served = serve(salt_from=SaltFrom.USER)
    assert cached(served, user="a") == 0
    assert cached(served, user="b") == 0
    assert cached(served, safety_identifier="a") > 0
    reply = served.post(CHAT, HELLO)
    assert reply.status == 400
    assert reply.error["param"] == "user"


# -- browsers ----------------------------------------------------------------------------------


def test_a_page_of_another_name_cannot_use_the_server(serve: Serve) -> None:
    served = serve(hosts=["127.0.0.1", "localhost"])
    assert served.get("/v1/models", Host="evil.example").status == 400
    assert served.get("/v1/models", Host="localhost:1").status == 200


def test_a_page_may_call_if_its_origin_is_named(serve: Serve) -> None:
    served = serve(origins=["https://chat.example"], keys=["secret"])
    asking = {
        "Origin": "https://chat.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    allowed = served.ask("OPTIONS", CHAT, None, asking)
    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
    refused = served.post(CHAT, HELLO, Origin="https://chat.example")
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == "https://chat.example"
    other = served.ask("OPTIONS", CHAT, None, asking | {"Origin": "https://evil.example"})
    assert other.status == 400


def test_no_page_may_call_otherwise(served: Served) -> None:
    reply = served.post(CHAT, HELLO | {"max_tokens": 1}, Origin="https://chat.example")
    assert "access-control-allow-origin" not in reply.headers


# -- metrics and health ------------------------------------------------------------------------


def test_health(served: Served) -> None:
    assert served.get("/health").json == {"status": "ok", "model": "tiny"}
    served.engine.close()
    reply = served.get("/health")
    assert (reply.status, reply.json["status"]) == (503, "stopping")
    reply = served.post(CHAT, HELLO)
    assert (reply.status, reply.error["code"]) == (503, "server_stopping")


def test_metrics_tell_what_was_done(served: Served, manager: KVCacheManager) -> None:
    for _ in range(2):
        served.post(CHAT, HELLO | {"max_tokens": 3})
    served.post(CHAT, HELLO | {"model": "other"})
    served.get("/nowhere")
    reply = served.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    found = families(reply.content.decode())

    def value(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in found[name].samples
            if labels.items() <= sample.labels.items() and not sample.name.endswith("_bucket")
        )

    assert value("kvpool_accepted_requests_total") == 2
    assert value("kvpool_requests_total", outcome="length") == 2
    assert value("kvpool_active_requests") == 0
    assert value("kvpool_completion_tokens_total") == 6
    usage = served.engine.stats()
    assert value("kvpool_prompt_tokens_total") == usage.prompt_tokens
    assert value("kvpool_prompt_tokens_total", source="cached") == usage.cached_tokens > 0
    assert value("kvpool_http_responses_total", path=CHAT, code="200") == 2
    assert value("kvpool_http_responses_total", path=CHAT, code="404") == 1
    assert value("kvpool_http_responses_total", path="other", code="404") == 1
    times = found["kvpool_time_to_first_token_seconds"].samples
    assert {sample.name.rpartition("_")[2]: sample.value for sample in times}["count"] == 2
    stats = manager.get_stats()
    assert value("kvpool_pool_memory_bytes", state="used") == stats.used_memory


def responses(served: Served, path: str = "/metrics") -> dict[tuple[str, str], float]:
    """The responses that were counted, by path and status."""
    found = families(served.get(path).content.decode())["kvpool_http_responses_total"].samples
    return {(one.labels["path"], one.labels["code"]): one.value for one in found}


def test_responses_are_counted_by_the_path_that_answers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    served.get("/v1/models/tiny")
    served.get("/v1/models/other")
    served.get(CHAT)

    def fail(_request: object) -> None:
        raise RuntimeError("an error of the engine itself")

    monkeypatch.setattr(served.engine, "submit", fail)
    assert served.post(CHAT, HELLO).status == 500
    assert responses(served) == {
        ("/v1/models/{model}", "200"): 1,
        ("/v1/models/{model}", "404"): 1,
        (CHAT, "405"): 1,
        (CHAT, "500"): 1,
    }


def test_responses_are_counted_in_an_application_that_mounts_it(serve: Serve) -> None:
    served = serve(mounted_at="/llm")
    assert served.get("/llm/health").status == 200
    assert served.get("/health").status == 404  # not of this application
    assert responses(served, "/llm/metrics") == {("/health", "200"): 1}


def test_metrics_have_conventional_names(served: Served) -> None:
    served.post(CHAT, HELLO | {"max_tokens": 2})
    found = families(served.get("/metrics").content.decode())
    assert list(problems(found.values())) == []


def test_metrics_are_open_metrics_if_that_is_asked_for(served: Served) -> None:
    reply = served.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    text = reply.content.decode()
    assert text.endswith("# EOF\n")
    parse: Any = text_string_to_metric_families
    assert any(one.name == "kvpool_requests" for one in parse(text))


def test_a_scrape_does_not_wait_for_the_model(served: Served, lab: Any) -> None:
    gate = ModelGate()
    with hooked(lab.tiny().model, gate):
        connection = served.start(CHAT, HELLO | {"max_tokens": 1})
        gate.wait()
        assert b'kvpool_active_requests{state="running"} 1.0' in served.get("/metrics").content
        assert served.get("/health").status == 200
        assert served.get("/v1/models").status == 200
        gate.open()
        assert json.loads(connection.getresponse().read())["choices"]
        connection.close()
