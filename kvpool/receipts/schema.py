"""The JSON Schema of the receipts, generated from their types."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import msgspec

from kvpool.receipts.types import SCHEMA_VERSION, Receipt

__all__ = ["generate_schema", "schema_text", "shipped_schema_text"]


def generate_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a receipt, from the types."""
    schema = msgspec.json.schema(Receipt)
    for definition in schema["$defs"].values():  # of a docstring, what is for every reader
        definition["description"] = definition["description"].partition("\n")[0]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kvpool receipt",
        "version": SCHEMA_VERSION,
        **schema,
    }


def schema_text() -> str:
    """Return what the file ``schema.json`` beside this module has to hold."""
    return json.dumps(generate_schema(), indent=2, ensure_ascii=False) + "\n"


def shipped_schema_text() -> str:
    """Return what that file holds."""
    return resources.files(__package__).joinpath("schema.json").read_text(encoding="utf-8")
