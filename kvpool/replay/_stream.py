"""Traces as streams of bytes: files, pipes and standard input, compressed or not."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import sys
import time
import zlib
from collections.abc import Callable
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from kvpool._optional_imports import load
from kvpool.descriptors import Descriptor
from kvpool.replay._errors import TraceError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["STANDARD_INPUT", "TraceStream"]

STANDARD_INPUT = "-"
"""The path that stands for standard input."""

_PIPE_SECONDS = 5.0  # to wait for the first writer of a named pipe
_POLL_SECONDS = 0.02

_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_SUFFIXES = {".gz", ".xz", ".zst"}


class TraceStream:
    """The bytes of a trace, decompressed if the first bytes are those of gzip, xz or zstd.

    Parameters
    ----------
    path : str
        A file, a pipe, or ``"-"`` for standard input.

    Attributes
    ----------
    name : str
        For messages.
    suffix : str
        Of the file's name without that of a compression, for example ``".csv"``.
    bytes_total : int
        Size of the file as it is stored; 0 if it is not known.

    Raises
    ------
    TraceError
        The file cannot be opened, or no process writes to the pipe.
    MissingExtraError
        The trace is compressed by zstd, and the extra is not installed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "standard input" if path == STANDARD_INPUT else path
        stored = Path(path)
        plain = stored.with_suffix("") if stored.suffix.lower() in _SUFFIXES else stored
        self.suffix = plain.suffix
        self._file = self._open()
        try:
            status = os.fstat(self._file.fileno())
            self.bytes_total = status.st_size if stat.S_ISREG(status.st_mode) else 0
            self.compression = self._compression()
            self._lines = self._decompressed()
        except BaseException:
            self.close()
            raise
        self._read = 0

    @property
    def bytes_read(self) -> int:
        """Bytes of the file as it is stored that were read so far."""
        return self._read if self.compression is None else self._file.tell()

    def readline(self, limit: int) -> bytes:
        """Return the next line with its end, or its first `limit` bytes; empty at the end.

        Raises
        ------
        TraceError
            The file cannot be read, or its compressed data is damaged or cut off.
        """
        try:
            line = self._lines.readline(limit)
        except OSError as error:
            raise TraceError(f"cannot read {self.name}: {_reason(error)}") from error
        except Exception as error:
            if not isinstance(error, EOFError | zlib.error | lzma.LZMAError | self._zstd_error):
                raise
            raise TraceError(
                f"cannot read {self.name}: its {self.compression} data is damaged or cut off "
                f"({error})"
            ) from error
        self._read += len(line)
        return line

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self.path != STANDARD_INPUT:
            self._file.close()

    # -- opening -------------------------------------------------------------------------

    def _open(self) -> BufferedReader:
        if self.path == STANDARD_INPUT:
            if sys.stdin is None:  # as after `<&-` in a shell
                raise TraceError(f"cannot read {self.name}: it is closed")
            return cast("BufferedReader", sys.stdin.buffer)
        try:
            if Path(self.path).is_fifo():
                return self._open_pipe()
            return Path(self.path).open("rb")
        except TraceError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise TraceError(f"cannot read {self.name}: {_reason(error)}") from error

    def _open_pipe(self) -> BufferedReader:
        """Open a pipe; to open it in the usual way could wait for a writer for ever."""
        opened = Descriptor(os.open, self.path, os.O_RDONLY | os.O_NONBLOCK)
        first = self._first_bytes(opened.number)
        os.set_blocking(opened.number, True)
        return BufferedReader(_Pipe(opened, first))

    def _first_bytes(self, descriptor: int) -> bytes:
        """Return what a pipe holds; empty if its writer has written nothing yet."""
        end = time.monotonic() + _PIPE_SECONDS
        while True:
            try:
                found = os.read(descriptor, 1 << 12)
            except BlockingIOError:
                return b""
            if found:
                return found
            if time.monotonic() > end:
                raise TraceError(
                    f"cannot read {self.name}: no process has opened this pipe for writing within "
                    f"{_PIPE_SECONDS:.0f} seconds"
                )
            time.sleep(_POLL_SECONDS)

    def _compression(self) -> str | None:
        try:
            start = self._file.peek(max(map(len, _MAGIC)))
        except OSError as error:
            raise TraceError(f"cannot read {self.name}: {_reason(error)}") from error
        return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)

    def _decompressed(self) -> BinaryIO:
        self._zstd_error: type[Exception] = EOFError
        if self.compression is None:
            return cast("BinaryIO", self._file)
        openers: dict[str, Callable[[BufferedReader], object]] = {
            "gzip": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
            "xz": lzma.LZMAFile,
            "zstd": self._open_zstd,
        }
        return cast("BinaryIO", openers[self.compression](self._file))

    def _open_zstd(self, file: BufferedReader) -> object:
        module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        zstd = load(module, "zstd", f"the zstd trace {self.name}")
        self._zstd_error = zstd.ZstdError
        return zstd.ZstdFile(file)


class _Pipe(RawIOBase):
    """A pipe of which some bytes were read already."""

    def __init__(self, opened: Descriptor, first: bytes) -> None:
        self._opened = opened
        self._first = first

    def fileno(self) -> int:
        return self._opened.number

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        if self._first:
            part = self._first[: len(target)]
            self._first = self._first[len(part) :]
        else:
            part = os.read(self._opened.number, len(target))
        target[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._opened.close()
        super().close()


def _reason(error: OSError | ValueError) -> str:
    """Return what an error of the system says, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
