"""`TraceReader`: iterates over the requests of a trace file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from kvpool._closing import Closing
from kvpool.replay._errors import BrokenLineError, TraceError
from kvpool.replay._formats import (
    LineError,
    LineParser,
    TraceFormat,
    azure_parser,
    mooncake_parser,
    recognise,
)
from kvpool.replay._hash_blocks import infer_hash_block_tokens
from kvpool.replay._request import TraceRequest
from kvpool.replay._stream import TraceStream

__all__ = ["MAX_LINE_BYTES", "TraceReader"]

MAX_LINE_BYTES = 1 << 20
"""Longest line, in bytes: a file without line ends must not fill the memory."""

# A file that has more bytes in a line, or more blank lines at its start, is not a trace.
_ENDLESS_BYTES = 64 << 20
_BLANK_LINES = 10_000
# Lines, and bytes of them, from which the size of hash blocks is inferred.
_LINES_AHEAD, _BYTES_AHEAD = 64, 4 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TraceReader(Closing):
    """Reads a trace once, from start to end, with only its next lines in memory.

    Parameters
    ----------
    path : str or Path
        A file or a named pipe, or ``"-"`` for standard input. A trace that is compressed with
        gzip, xz or zstd is decompressed; zstd needs the extra ``kvpool[zstd]`` before Python 3.14.
    trace_format : TraceFormat, optional
        By default detected from the first line, or else from the suffix of the file.
    skip_bad : bool, default False
        Whether to count and skip malformed lines; by default they are errors.
    hash_block_tokens : int, optional
        Tokens per hash block of a Mooncake trace. By default inferred from the number of ids in
        the first lines, and 512 if those lines fit it.

    Attributes
    ----------
    trace_format : TraceFormat
    hash_block_tokens : int or None
        Tokens per hash block; None if the trace has no ids of blocks.
    bytes_total : int
        Size of the file as it is stored; 0 if unknown.
    skipped : int
        How many malformed lines were skipped.
    first_skipped : BrokenLineError or None
        The first skipped line.

    Raises
    ------
    TraceError
        The file cannot be opened or is empty, its format or the size of its hash blocks cannot be
        detected, or its header does not belong to the format. During iteration: the file cannot be
        read, its compressed data is damaged, or it has no requests.
    BrokenLineError
        During iteration: a line is malformed, and `skip_bad` is false.
    MissingExtraError
        The trace is compressed with zstd, and the extra ``kvpool[zstd]`` is not installed.

    Notes
    -----
    Blank lines, a byte order mark, and line ends of either kind are fine. Times may go back.
    """

    def __init__(
        self,
        path: str | Path,
        trace_format: TraceFormat | None = None,
        *,
        skip_bad: bool = False,
        hash_block_tokens: int | None = None,
    ) -> None:
        if hash_block_tokens is not None and hash_block_tokens < 1:
            raise TraceError(f"hash_block_tokens must be at least 1, not {hash_block_tokens}")
        self.path = str(path)
        self.skipped = 0
        self.first_skipped: BrokenLineError | None = None
        self._skip_bad = skip_bad
        self._ahead: deque[bytes] = deque()  # lines that were read to infer the size of blocks
        self._line = 0
        self._stream = TraceStream(self.path)
        self._name = self._stream.name
        try:
            self.bytes_total = self._stream.bytes_total
            self._pending = self._first_line()
            self.trace_format = trace_format or self._recognise()
            self.hash_block_tokens = None
            if self.trace_format is TraceFormat.MOONCAKE:
                self.hash_block_tokens = hash_block_tokens or self._infer_hash_block_tokens()
            self._parse = self._parser()
        except BaseException:
            self._stream.close()
            raise

    @property
    def bytes_read(self) -> int:
        """Bytes of the file, as it is stored, that were read so far."""
        return self._stream.bytes_read

    def __iter__(self) -> Iterator[TraceRequest]:
        found = 0
        while self._pending:
            raw, self._pending = self._pending, b""
            if not raw.isspace():
                request = self._request(raw)
                if request is not None:
                    found += 1
                    yield request
            self._pending = self._read_line()
        if not found and not self.skipped:
            raise TraceError(f"{self._name} contains no requests")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    # -- lines ---------------------------------------------------------------------------

    def _first_line(self) -> bytes:
        """Return the first line that is not blank, without a byte order mark."""
        line = self._read_line().removeprefix(_BYTE_ORDER_MARK)
        while line.isspace():
            if self._line > _BLANK_LINES:
                raise TraceError(f"{self._name} is not a trace: it starts with blank lines only")
            line = self._read_line()
        if not line:
            raise TraceError(f"{self._name} is empty")
        return line

    def _read_line(self) -> bytes:
        """Return the next line with its end; of a line that is too long, only the beginning."""
        line = self._ahead.popleft() if self._ahead else self._stream_line()
        self._line += bool(line)
        return line

    def _stream_line(self) -> bytes:
        line = rest = self._stream.readline(MAX_LINE_BYTES + 1)
        passed = len(line)
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = self._stream.readline(MAX_LINE_BYTES + 1)
            passed += len(rest)
            if passed > _ENDLESS_BYTES:
                raise TraceError(
                    f"{self._name} is not a trace: a line has over {_ENDLESS_BYTES} bytes"
                )
        return line

    def _infer_hash_block_tokens(self) -> int | None:
        """Return the tokens per hash block, from the lines that come next."""
        size = len(self._pending)
        while len(self._ahead) < _LINES_AHEAD and size < _BYTES_AHEAD:
            line = self._stream_line()
            if not line:
                break
            self._ahead.append(line)
            size += len(line)
        try:
            return infer_hash_block_tokens([self._pending, *self._ahead])
        except LineError as fault:
            raise TraceError(
                f"{self._name}: {fault}; give hash_block_tokens (--hash-block-tokens)"
            ) from None

    # -- requests -----------------------------------------------------------------------

    def _recognise(self) -> TraceFormat:
        known = recognise(self._pending.decode("utf-8", "replace"), self._stream.suffix)
        if known is None:
            raise TraceError(
                f"cannot detect the trace format of {self._name} (supported: azure CSV, mooncake "
                f"JSON lines): {self._broken('neither a header nor JSON', self._pending)}"
            )
        return known

    def _parser(self) -> LineParser:
        if self.trace_format is TraceFormat.MOONCAKE:
            return mooncake_parser(self.hash_block_tokens)
        header, self._pending = self._pending, b""
        try:
            parser = azure_parser(_decoded(header))
        except LineError as fault:
            raise self._broken(str(fault), header) from None
        self._pending = self._read_line()
        return parser

    def _request(self, raw: bytes) -> TraceRequest | None:
        try:
            return self._parse(_decoded(raw))
        except LineError as fault:
            broken = self._broken(str(fault), raw)
        if not self._skip_bad:
            raise broken
        self.skipped += 1
        self.first_skipped = self.first_skipped or broken
        return None

    def _broken(self, reason: str, raw: bytes) -> BrokenLineError:
        return BrokenLineError(self._name, self._line, reason, raw.rstrip(b"\r\n"))


def _decoded(raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise LineError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise LineError(f"not valid UTF-8 ({error.reason})") from None
