"""The formats of public traces: how a format is detected, and how its lines are parsed."""

from __future__ import annotations

import csv
import datetime as dt
import enum
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from kvpool.replay._request import TraceRequest

__all__ = [
    "AZURE_COLUMNS",
    "MOONCAKE_HASH_BLOCK_TOKENS",
    "LineError",
    "LineParser",
    "TraceFormat",
    "azure_parser",
    "is_azure_header",
    "mooncake_counts",
    "mooncake_parser",
    "mooncake_request",
    "recognise",
]

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""The required columns of an Azure trace; other columns are ignored."""

MOONCAKE_HASH_BLOCK_TOKENS = 512
"""Tokens per block in Mooncake traces, whose requests list ids of blocks."""

LineParser = Callable[[str], TraceRequest]


class LineError(ValueError):
    """The reason why a line is malformed; `TraceReader` adds file and line number."""


class TraceFormat(enum.StrEnum):
    """The supported trace formats."""

    AZURE = "azure"
    """Azure LLM inference traces: CSV, one row per request, without sessions."""
    MOONCAKE = "mooncake"
    """Mooncake traces: JSON lines, with the ids of the blocks of each prompt."""


def recognise(first_line: str, suffix: str) -> TraceFormat | None:
    """Return the format of a trace, from its first line or else from the suffix of its name.

    Parameters
    ----------
    first_line : str
        The first that is not blank.
    suffix : str
        Of the file's name, for example ``".csv"``.
    """
    if first_line.lstrip().startswith("{"):
        return TraceFormat.MOONCAKE
    if is_azure_header(first_line):
        return TraceFormat.AZURE
    by_suffix = {
        ".csv": TraceFormat.AZURE,
        ".json": TraceFormat.MOONCAKE,
        ".jsonl": TraceFormat.MOONCAKE,
        ".ndjson": TraceFormat.MOONCAKE,
    }
    return by_suffix.get(suffix.lower())


# -- Azure -------------------------------------------------------------------------------


def is_azure_header(line: str) -> bool:
    """Return whether a line names all columns of an Azure trace."""
    try:
        return set(AZURE_COLUMNS) <= set(_fields(line))
    except LineError:
        return False


def azure_parser(header: str) -> LineParser:
    """Return the function that parses the rows below a header.

    Raises
    ------
    LineError
        The header lacks a column.
    """
    columns = _fields(header)
    missing = [column for column in AZURE_COLUMNS if column not in columns]
    if missing:
        raise LineError(f"the header lacks {', '.join(missing)}")
    when, prompt, generated = map(columns.index, AZURE_COLUMNS)

    def parse(line: str) -> TraceRequest:
        row = _fields(line)
        if len(row) != len(columns):
            raise LineError(f"{len(row)} fields, but the header has {len(columns)}")
        return _request(
            _seconds(row[when]),
            _written_count(AZURE_COLUMNS[1], row[prompt]),
            _written_count(AZURE_COLUMNS[2], row[generated]),
        )

    return parse


def _fields(line: str) -> list[str]:
    try:
        row = next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise LineError(f"not valid CSV ({error})") from None
    return [field.strip() for field in row]


def _seconds(text: str) -> float:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise LineError(f"{AZURE_COLUMNS[0]} is not a date and time") from None
    # The traces have no time zone; only differences matter, so any zone works.
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _written_count(name: str, text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise LineError(f"{name} is not a whole number")
    try:
        number = int(text)
    except ValueError:  # more digits than Python converts
        raise LineError(f"{name} has {len(digits)} digits") from None
    return _count(name, number)


# -- Mooncake ----------------------------------------------------------------------------


def mooncake_parser(hash_block_tokens: int | None) -> LineParser:
    """Return a function that parses one line into a request, and raises `LineError`.

    Parameters
    ----------
    hash_block_tokens : int or None
        Tokens per hash block; None to read no ids.
    """

    def parse(line: str) -> TraceRequest:
        return mooncake_request(line, hash_block_tokens)

    return parse


def mooncake_request(
    line: str, hash_block_tokens: int | None = MOONCAKE_HASH_BLOCK_TOKENS
) -> TraceRequest:
    """Return the request in a line.

    Parameters
    ----------
    line : str
    hash_block_tokens : int or None
        Tokens per hash block; None to read no ids.

    Raises
    ------
    LineError
        The line is malformed.
    """
    row = _row(line)
    prompt = _count("input_length", _field(row, "input_length"))
    blocks: tuple[int, ...] = ()
    if hash_block_tokens is not None:
        blocks = _blocks(_field(row, "hash_ids"))
        wanted = -(-prompt // hash_block_tokens)
        if len(blocks) != wanted:
            raise LineError(
                f"hash_ids has {len(blocks)} ids, but {prompt} tokens are {wanted} blocks "
                f"of {hash_block_tokens}"
            )
    generated = _count("output_length", _field(row, "output_length"))
    # Qwen-Bailian's traces have the same fields, an id of the chat, and times in seconds.
    units = 1 if "chat_id" in row else 1000
    return _request(_time(_field(row, "timestamp")) / units, prompt, generated, blocks)


def mooncake_counts(line: str) -> tuple[int, int]:
    """Return the prompt tokens and the number of ids in a line; a line may have no ids.

    Raises
    ------
    LineError
        The line is malformed.
    """
    row = _row(line)
    return _count("input_length", _field(row, "input_length")), len(
        _blocks(row.get("hash_ids", []))
    )


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LineError(f"not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise LineError("not a JSON object")
    return row


def _field(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise LineError(f"{name} is missing")
    return row[name]


def _time(value: Any) -> float:
    try:
        number = float(value) if _is_number(value) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise LineError("timestamp is not a finite number")
    return number


def _blocks(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise LineError("hash_ids is not a list")
    for block in value:
        if not isinstance(block, int) or isinstance(block, bool) or block < 0:
            raise LineError(f"hash_ids contains {block!r:.40}, which is not an id")
    return tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# -- both --------------------------------------------------------------------------------


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise LineError(f"{name} is not a whole number")
    if value < 0:
        raise LineError(f"{name} is negative")
    return value


def _request(
    arrival: float, prompt: int, generated: int, blocks: Sequence[int] = ()
) -> TraceRequest:
    if not prompt + generated:
        raise LineError("the request has no tokens")
    return TraceRequest(arrival, prompt, generated, tuple(blocks))
