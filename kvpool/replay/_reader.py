"""`TraceReader`: iterates over the requests of a trace file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kvpool._closing import Closing
from kvpool.replay._errors import BrokenLineError, TraceError
from kvpool.replay._formats import (
    LineError,
    LineParser,
    TraceFormat,
    azure_parser,
    mooncake_request,
    recognise,
)
from kvpool.replay._request import TraceRequest

__all__ = ["MAX_LINE_BYTES", "TraceReader"]

MAX_LINE_BYTES = 1 << 20
"""Longest line, in bytes: a file without line ends must not fill the memory."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TraceReader(Closing):
    """Reads a trace once, from start to end, with one line in memory at a time.

    Parameters
    ----------
    path : str or Path
        A file, or something that is read like a file, for example a named pipe.
    trace_format : TraceFormat, optional
        By default detected from the first line, or else from the suffix of the file.
    skip_bad : bool, default False
        Whether to count and skip malformed lines; by default they are errors.

    Attributes
    ----------
    trace_format : TraceFormat
    bytes_total : int
        Size of the file; 0 if unknown.
    bytes_read : int
        Bytes of the lines read so far.
    skipped : int
        How many malformed lines were skipped.
    first_skipped : BrokenLineError or None
        The first skipped line.

    Raises
    ------
    TraceError
        The file cannot be opened or is empty, its format cannot be detected, or its header does
        not belong to the format. During iteration: the file cannot be read or has no requests.
    BrokenLineError
        During iteration: a line is malformed, and `skip_bad` is false.

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
    ) -> None:
        self.path = str(path)
        self.bytes_read = self.skipped = 0
        self.first_skipped: BrokenLineError | None = None
        self._skip_bad = skip_bad
        self._line = 0
        self._stream = self._open()
        try:
            self.bytes_total = Path(path).stat().st_size
            self._pending = self._first_line()
            self.trace_format = trace_format or self._recognise()
            self._parse = self._parser()
        except BaseException:
            self._stream.close()
            raise

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
            raise TraceError(f"{self.path} contains no requests")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    # -- lines ---------------------------------------------------------------------------

    def _open(self) -> BinaryIO:
        try:
            return Path(self.path).open("rb")
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise TraceError(f"cannot read {self.path}: {_reason(error)}") from error

    def _first_line(self) -> bytes:
        """Return the first line that is not blank, without a byte order mark."""
        line = self._read_line().removeprefix(_BYTE_ORDER_MARK)
        while line.isspace():
            line = self._read_line()
        if not line:
            raise TraceError(f"{self.path} is empty")
        return line

    def _read_line(self) -> bytes:
        """Return a line with its end; of a line that is too long, only the beginning."""
        try:
            line = self._stream.readline(MAX_LINE_BYTES + 1)
            rest = line
            self.bytes_read += len(line)
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = self._stream.readline(MAX_LINE_BYTES + 1)
                self.bytes_read += len(rest)
        except OSError as error:
            raise TraceError(f"cannot read {self.path}: {_reason(error)}") from error
        self._line += bool(line)
        return line

    # -- requests -----------------------------------------------------------------------

    def _recognise(self) -> TraceFormat:
        known = recognise(self._pending.decode("utf-8", "replace"), Path(self.path).suffix)
        if known is None:
            raise TraceError(
                f"cannot detect the trace format of {self.path} (supported: azure CSV, mooncake "
                f"JSON lines): {self._broken('neither a header nor JSON', self._pending)}"
            )
        return known

    def _parser(self) -> LineParser:
        if self.trace_format is TraceFormat.MOONCAKE:
            return mooncake_request
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
        return BrokenLineError(self.path, self._line, reason, raw.rstrip(b"\r\n"))


def _decoded(raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise LineError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise LineError(f"not valid UTF-8 ({error.reason})") from None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
