"""Traces that are compressed, come through a pipe, or have no end."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kvpool.replay import TraceError, TraceFormat, TraceReader
from kvpool.replay._stream import TraceStream
from tests.support.injection import every_place
from tests.support.zstd import zstd

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
TRACE = (HEADER + "2023-11-16 18:15:46.6805900,374,44\n" * 1000).encode()

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": lambda data: bytes(zstd.compress(data)),
}
compressions = pytest.mark.parametrize("suffix", COMPRESSIONS)


def prompts(path: Path | str) -> list[int]:
    with TraceReader(path) as reader:
        return [request.prompt_tokens for request in reader]


@compressions
@pytest.mark.parametrize("name", ["trace.csv.{}", "trace.{}", "trace"])
def test_a_compressed_trace_is_read(tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / name.format(suffix)
    path.write_bytes(COMPRESSIONS[suffix](TRACE))
    with TraceReader(path) as reader:
        assert [request.prompt_tokens for request in reader] == [374] * 1000
        assert reader.trace_format is TraceFormat.AZURE
        assert reader.bytes_read == reader.bytes_total == path.stat().st_size


@compressions
def test_the_suffix_before_that_of_the_compression_tells_the_format(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"trace.jsonl.{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](b"once upon a time\n"))
    with TraceReader(path) as reader:
        assert reader.trace_format is TraceFormat.MOONCAKE


@compressions
@pytest.mark.parametrize("damage", ["cut off", "changed"])
def test_damaged_data_is_an_error(tmp_path: Path, suffix: str, damage: str) -> None:
    rows = "".join(f"2023-11-16 18:15:46,{number * 7919 % 9973},44\n" for number in range(9000))
    data = bytearray(COMPRESSIONS[suffix]((HEADER + rows).encode()))
    if damage == "cut off":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path = tmp_path / f"trace.csv.{suffix}"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=r"cannot read|format|fields|not"):
        prompts(path)


@pytest.mark.no_cover
@compressions
def test_a_compressed_line_without_end_takes_little_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"trace.csv.{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](bytes(80 << 20)))
    with pytest.raises(TraceError, match="is not a trace: a line has over 67108864 bytes"):
        TraceReader(path)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (TRACE, gzip.compress(TRACE)):
        reading, writing = os.pipe()
        thread = threading.Thread(target=write_all, args=(writing, data))
        thread.start()
        with os.fdopen(reading, encoding="utf-8") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert prompts("-") == [374] * 1000
            assert not stdin.closed
        thread.join()


def test_standard_input_may_be_empty_or_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(TraceError, match="standard input is empty"):
            TraceReader("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TraceError, match="cannot read standard input: it is closed"):
        TraceReader("-")


def write_all(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as writer:
        writer.write(data)


pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")


@pipes
@pytest.mark.parametrize("data", [TRACE, gzip.compress(TRACE)], ids=["plain", "gzip"])
def test_a_writer_may_come_after_the_reader(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvpool.replay._stream._PIPE_SECONDS", 60.0)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    thread = threading.Timer(0.2, lambda: path.write_bytes(data))
    thread.start()
    assert prompts(path) == [374] * 1000
    thread.join()


@pipes
def test_a_pipe_without_a_writer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvpool.replay._stream._PIPE_SECONDS", 0.1)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    before = open_files()
    with pytest.raises(TraceError, match=r"^cannot read .*pipe: no process has opened this pipe"):
        TraceReader(path)
    assert open_files() == before


@pipes
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupt_leaves_no_pipe_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An interrupt of a finalizer is reported here, with frames that keep the pipe.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    before = open_files()
    places = 0
    for injection in every_place("interrupt"):
        os.write(writer, b"{}\n")
        with contextlib.suppress(KeyboardInterrupt), injection:
            TraceStream(str(path))
        assert open_files() == before, injection.where
        places += injection.where is not None
    assert places > 10
    os.close(writer)


def open_files() -> int | None:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else None


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no /dev/zero")
@pytest.mark.parametrize("trace_format", [None, *TraceFormat])
def test_a_file_without_end_is_an_error(trace_format: TraceFormat | None) -> None:
    with (
        pytest.raises(TraceError, match="/dev/zero is not a trace"),
        TraceReader("/dev/zero", trace_format, skip_bad=True) as reader,
    ):
        list(reader)


def test_blank_lines_without_end_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("\n" * 20_000 + HEADER, encoding="utf-8")
    with pytest.raises(TraceError, match="is not a trace: it starts with blank lines only"):
        TraceReader(path)


def test_a_line_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one line\ntwo")
    stream = TraceStream(str(path))
    parts = [stream.readline(4) for _ in range(5)]
    stream.close()
    assert parts == [b"one ", b"line", b"\n", b"two", b""]
    assert stream.compression is None
