from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path

import pytest

from kvpool.errors import KVPoolError
from kvpool.replay import BrokenLineError, TraceError, TraceFormat, TraceReader, TraceRequest
from kvpool.replay._reader import MAX_LINE_BYTES

DATA = Path(__file__).parents[1] / "data"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROWS = ["2024-02-29 08:00:00.5,300,12", "2024-02-29 08:00:01.75,41,7"]
REQUESTS = [TraceRequest(0.0, 300, 12), TraceRequest(1.25, 41, 7)]


def write(folder: Path, content: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, *, skip_bad: bool = False) -> list[TraceRequest]:
    """All requests, with arrivals that begin at 0."""
    with TraceReader(path, skip_bad=skip_bad) as reader:
        requests = list(reader)
    first = requests[0].arrival if requests else 0.0
    return [
        TraceRequest(r.arrival - first, r.prompt_tokens, r.generated_tokens, r.hash_blocks)
        for r in requests
    ]


def broken(path: Path) -> BrokenLineError:
    with pytest.raises(BrokenLineError) as caught, TraceReader(path) as reader:
        list(reader)
    return caught.value


def test_azure() -> None:
    with TraceReader(DATA / "azure_small.csv") as reader:
        requests = list(reader)
    assert reader.trace_format is TraceFormat.AZURE
    assert reader.bytes_read == reader.bytes_total == (DATA / "azure_small.csv").stat().st_size
    assert [r.prompt_tokens for r in requests] == [300, 41, 1200, 5, 77]
    assert [r.generated_tokens for r in requests] == [12, 7, 30, 64, 1]
    assert requests[1].arrival - requests[0].arrival == 1.25
    assert {r.hash_blocks for r in requests} == {()}


def test_mooncake() -> None:
    with TraceReader(DATA / "mooncake_small.jsonl") as reader:
        requests = list(reader)
    assert reader.trace_format is TraceFormat.MOONCAKE
    assert requests[2] == TraceRequest(27.482, 1600, 33, (0, 1, 4, 5))
    assert [r.tokens for r in requests] == [1320, 705, 1633, 490, 2049]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_line_ends_marks_and_blank_lines(tmp_path: Path, end: str, mark: str, last: str) -> None:
    lines = ["", HEADER, "", ROWS[0], "   ", ROWS[1]]
    path = write(tmp_path, mark + end.join(lines) + last)
    assert read(path) == REQUESTS


def test_columns_in_another_order_and_beside_others(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'GeneratedTokens,model,"ContextTokens", TIMESTAMP\n'
        '12,"gpt, the fourth",300,2024-02-29 08:00:00+00:00\n'
        "7,x,41,2024-02-29T09:00:01.25+01:00\n",
    )
    assert read(path) == REQUESTS


def test_the_content_decides_before_the_suffix(tmp_path: Path) -> None:
    azure = write(tmp_path, "\n".join([HEADER, *ROWS]), "trace.jsonl")
    assert read(azure) == REQUESTS
    row = '{"timestamp": 5, "input_length": 3, "output_length": 0, "hash_ids": [8]}'
    assert read(write(tmp_path, row, "trace.csv")) == [TraceRequest(0.0, 3, 0, (8,))]


def test_a_format_that_is_named_decides_before_both(tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join([HEADER, *ROWS]))
    with (
        TraceReader(path, TraceFormat.MOONCAKE) as reader,
        pytest.raises(BrokenLineError, match=r"trace\.csv:1: not valid JSON .*'TIMESTAMP,"),
    ):
        list(reader)


def test_times_may_go_back(tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join([HEADER, *reversed(ROWS)]))
    assert [r.arrival for r in read(path)] == [0.0, -1.25]


def test_huge_numbers_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEADER}\n2024-02-29 08:00:00,{10**40},0\n")
    assert read(path) == [TraceRequest(0.0, 10**40, 0)]


# -- the file as a whole -----------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "\n \r\n", "\ufeff"])
def test_an_empty_file(tmp_path: Path, content: str) -> None:
    with pytest.raises(TraceError, match=r"trace\.csv is empty"):
        TraceReader(write(tmp_path, content))


def test_a_header_alone(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"trace\.csv contains no requests"):
        read(write(tmp_path, HEADER))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot read .*nowhere\.csv: No such file"):
        TraceReader(tmp_path / "nowhere.csv")
    with pytest.raises(TraceError, match=r"cannot read .*: .*null (byte|character)"):
        TraceReader("a\0b")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot read"):
        TraceReader(tmp_path)


def test_a_wrong_header_is_an_error_even_where_lines_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, "TIMESTAMP,ContextTokens,Tokens\n1,2,3\n")
    with pytest.raises(BrokenLineError, match=r"csv:1: the header lacks GeneratedTokens: 'TIME"):
        TraceReader(path, skip_bad=True)


def test_an_unknown_format(tmp_path: Path) -> None:
    path = write(tmp_path, "once upon a time\n", "story.txt")
    with pytest.raises(TraceError, match=r"cannot detect the trace format of.*'once"):
        TraceReader(path)


def test_errors_are_errors_of_kvpool_and_survive_pickling(tmp_path: Path) -> None:
    error = broken(write(tmp_path, f"{HEADER}\nnonsense\n"))
    assert isinstance(error, KVPoolError)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.line, copy.text, str(copy)) == (2, b"nonsense", str(error))


# -- broken lines ------------------------------------------------------------------------

TIME = "2024-02-29 08:00:00"
AZURE_FAULTS = {
    "nonsense": "1 fields, but the header has 3",
    f"{TIME},1,2,3": "4 fields, but the header has 3",
    "yesterday,1,2": "TIMESTAMP is not a date and time",
    "2023-02-29 08:00:00,1,2": "TIMESTAMP is not a date and time",
    f"{TIME},-1,2": "ContextTokens is negative",
    f"{TIME},1,-2": "GeneratedTokens is negative",
    f"{TIME},1.5,2": "ContextTokens is not a whole number",
    f"{TIME},,2": "ContextTokens is not a whole number",
    f"{TIME},1_000,2": "ContextTokens is not a whole number",
    f"{TIME},٣,2": "ContextTokens is not a whole number",
    f"{TIME},{'9' * 5000},2": "ContextTokens has 5000 digits",
    f"{TIME},0,0": "the request has no tokens",
    f'{TIME},"1,2': "not valid CSV",
    HEADER: "TIMESTAMP is not a date and time",
}


def mooncake(
    timestamp: str = "0", prompt: str = "600", generated: str = "2", ids: str = "[1, 2]"
) -> str:
    return (
        f'{{"timestamp": {timestamp}, "input_length": {prompt}, '
        f'"output_length": {generated}, "hash_ids": {ids}}}'
    )


MOONCAKE_FAULTS = {
    "nonsense": "not valid JSON",
    mooncake()[:-1]: "not valid JSON",
    "[" * 100_000: "not valid JSON",
    "[1, 2]": "not a JSON object",
    '{"timestamp": 0}': "input_length is missing",
    mooncake().replace("output_length", "output"): "output_length is missing",
    mooncake(timestamp='"0"'): "timestamp is not a finite number",
    mooncake(timestamp="true"): "timestamp is not a finite number",
    mooncake(timestamp="NaN"): "timestamp is not a finite number",
    mooncake(timestamp="1e999"): "timestamp is not a finite number",
    mooncake(timestamp="9" * 400): "timestamp is not a finite number",
    mooncake(prompt="600.0"): "input_length is not a whole number",
    mooncake(prompt="true"): "input_length is not a whole number",
    mooncake(prompt="-600"): "input_length is negative",
    mooncake(prompt="9" * 5000): "not valid JSON",
    mooncake(generated="null"): "output_length is not a whole number",
    mooncake(generated="-1"): "output_length is negative",
    mooncake(ids="7"): "hash_ids is not a list",
    mooncake(ids='[1, "2"]'): "hash_ids contains '2', which is not an id",
    mooncake(ids="[1, -2]"): "hash_ids contains -2, which is not an id",
    mooncake(ids="[1, true]"): "hash_ids contains True, which is not an id",
    mooncake(ids="[1]"): "hash_ids has 1 ids, but 600 tokens are 2 blocks of 512",
    mooncake(ids="[1, 2, 3]"): "hash_ids has 3 ids, but 600 tokens are 2 blocks of 512",
    mooncake(prompt="0", generated="0", ids="[]"): "the request has no tokens",
}


@pytest.mark.parametrize(("line", "reason"), AZURE_FAULTS.items(), ids=AZURE_FAULTS.values())
def test_broken_azure_lines(tmp_path: Path, line: str, reason: str) -> None:
    check_broken(write(tmp_path, "\n".join([HEADER, ROWS[0], line, ROWS[1]])), 3, line, reason)


@pytest.mark.parametrize(("line", "reason"), MOONCAKE_FAULTS.items(), ids=MOONCAKE_FAULTS.values())
def test_broken_mooncake_lines(tmp_path: Path, line: str, reason: str) -> None:
    whole = mooncake()
    check_broken(write(tmp_path, f"{whole}\n{line}\n{whole}", "trace.jsonl"), 2, line, reason)


def check_broken(path: Path, number: int, line: str, reason: str) -> None:
    error = broken(path)
    assert (error.path, error.line) == (str(path), number)
    assert error.reason.startswith(reason)
    assert line[:20] in str(error)
    assert len(str(error)) < 300 + len(str(path))
    with TraceReader(path, skip_bad=True) as reader:
        assert len(list(reader)) == 2
    assert reader.skipped == 1
    assert str(reader.first_skipped) == str(error)


def test_a_line_that_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEADER}\n".encode() + b"\xff\xfe\x00,1,2\n")
    error = broken(path)
    assert error.reason.startswith("not valid UTF-8")
    assert r"\xff\xfe" in str(error)


def test_a_line_without_end_is_passed_over_as_a_whole(tmp_path: Path) -> None:
    endless = b"7" * (3 * MAX_LINE_BYTES + 1)
    path = write(tmp_path, f"{HEADER}\n".encode() + endless + b"\n" + ROWS[1].encode())
    error = broken(path)
    assert error.reason == f"longer than {MAX_LINE_BYTES} bytes"
    assert len(str(error)) < 300 + len(str(path))
    with TraceReader(path, skip_bad=True) as reader:
        assert [r.prompt_tokens for r in reader] == [41]
    assert (reader.skipped, reader.bytes_read) == (1, reader.bytes_total)


def test_a_line_of_the_greatest_length_is_read(tmp_path: Path) -> None:
    row = f"{ROWS[1]}{' ' * (MAX_LINE_BYTES - len(ROWS[1]) - 1)}\n"
    assert read(write(tmp_path, f"{HEADER}\n{ROWS[0]}\n{row}")) == REQUESTS


def test_nothing_but_broken_lines(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEADER}\na\nb\n")
    with TraceReader(path, skip_bad=True) as reader:
        assert list(reader) == []
    assert reader.skipped == 2


# -- streaming ---------------------------------------------------------------------------


@pytest.mark.no_cover
def test_a_long_trace_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join([HEADER, *(ROWS * 15_000)]))
    tracemalloc.start()
    with TraceReader(path) as reader:
        assert sum(1 for _ in reader) == 30_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    keep_open = os.open(path, os.O_RDWR)  # so that neither side waits to open it
    os.write(keep_open, f"{HEADER}\n{ROWS[0]}\n".encode())
    with TraceReader(path) as reader:
        requests = iter(reader)
        assert next(requests).prompt_tokens == 300
        os.write(keep_open, f"{ROWS[1]}\n{ROWS[0]}\n".encode())
        assert next(requests).prompt_tokens == 41
        assert reader.bytes_total == 0
    os.close(keep_open)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2023-11-16 18:15:46.6805900", 0.68059),
        ("2023-11-16 18:15:46.000001", 0.000001),
        ("2023-11-16 18:15:46.009930+00:00", 0.00993),
        ("2023-11-16T18:15:46.25Z", 0.25),
        ("2023-11-16 18:15:46", 0.0),
    ],
)
def test_fractions_of_a_second_stay(tmp_path: Path, text: str, seconds: float) -> None:
    path = write(tmp_path, f"{HEADER}\n2023-11-16 18:15:46,1,1\n{text},1,1\n")
    assert read(path)[1].arrival == pytest.approx(seconds, abs=1e-6)
