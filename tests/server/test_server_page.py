"""The page of the server: its example runs, and its table lists the metrics that there are."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support import needs
from tests.support.docs_pages import DOCS, blocks
from tests.support.prometheus import families
from tests.support.served import Served

pytestmark = pytest.mark.transformers

PAGE = DOCS / "server.md"


def test_the_example_with_the_client_runs(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.openai()
    (example,) = (block for block in blocks(PAGE) if block.language == "py")
    source = example.text.replace("http://127.0.0.1:8000/v1", served.base_url)
    assert source != example.text
    exec(compile(source, str(PAGE), "exec"), {})
    shown = capsys.readouterr().out
    assert re.search(r"\n0 of \d+ tokens of the prompt were in the pool\n$", shown)


def test_the_request_of_curl_is_answered(served: Served) -> None:
    (command,) = re.findall(r"-d '(\{.*?\n  \})'", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    content = command.replace("SmolLM2-135M-Instruct", "tiny").encode()
    reply = served.ask(
        "POST", "/v1/chat/completions", content, {"Content-Type": "application/json"}
    )
    assert reply.status == 200
    assert reply.json["usage"]["completion_tokens"] == 20


def test_the_table_lists_every_metric_with_its_labels(served: Served) -> None:
    served.get("/v1/models")
    found: dict[str, Any] = families(served.get("/metrics").content.decode())
    text = PAGE.read_text(encoding="utf-8")
    listed = {
        name: set(filter(None, re.split(r", ", labels)))
        for name, labels in re.findall(r"`(kvpool_\w+)(?:\{([\w, ]+)\})?`", text)
    }
    ours = {name: metric for name, metric in found.items() if name.startswith("kvpool_")}
    names = {f"{name}_info" if one.type == "info" else name: one for name, one in ours.items()}
    assert listed.keys() == names.keys()
    for name, metric in names.items():
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        assert labels == listed[name], name
