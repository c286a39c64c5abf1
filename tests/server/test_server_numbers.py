"""Numbers that a server and its application do not take."""

from __future__ import annotations

from typing import Any

import pytest

from kvpool.errors import InvalidArgumentError
from kvpool.manager import KVCacheManager
from kvpool.server import Server, bound_socket, create_app

pytestmark = pytest.mark.transformers


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"deadline": 0}, "deadline must be above 0, not 0"),
        ({"deadline": float("inf")}, "deadline must be a finite number, not inf"),
        ({"body_seconds": "30"}, "body_seconds must be a finite number, not '30'"),
        ({"max_body": 0}, "max_body must be at least 1, not 0"),
    ],
)
def test_numbers_of_an_application(
    lab: Any, manager: KVCacheManager, options: dict[str, Any], text: str
) -> None:
    with lab.make_engine(manager) as engine, pytest.raises(InvalidArgumentError, match=text):
        create_app(engine, "tiny", **options)


def test_seconds_of_a_server(lab: Any, manager: KVCacheManager) -> None:
    with lab.make_engine(manager) as engine, bound_socket("127.0.0.1", 0) as listener:
        app = create_app(engine, "tiny")
        for seconds in (-1.0, float("inf")):
            with pytest.raises(
                InvalidArgumentError, match=rf"drain_seconds must .*, not {seconds}"
            ):
                Server(app, engine, listener, drain_seconds=seconds)
