"""An interrupt, or a lack of memory, at every place where one can be: each ledger verifies.

The same calls are made again and again; each time the exception comes at the next place inside
of kvpool. Afterwards the ledger is written on as if nothing had happened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import pytest

from kvpool.ledger import LedgerSink, ReceiptLine, read_ledger, verify
from kvpool.ledger.ed25519 import generate_key_files
from kvpool.manager import KVCacheManager
from kvpool.receipts import MemorySink, ReceiptEmitter, ReceiptStream
from kvpool.stats import PoolStats
from tests.support.injection import Injection, Kind, every_place, injected
from tests.support.ledgers import PRIVATE
from tests.support.process_usage import open_files

OPTIONS: dict[str, dict[str, Any]] = {
    "checkpoints": {"checkpoint_every": 2},
    "rotations": {"rotate_at": 900},
    "signed": {"key": PRIVATE, "checkpoint_every": 2},
    "redacted": {"redact": True, "salt": bytes(32), "fsync": "always"},
}


# Where a call ends that had opened a file, nobody closes the file but the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@cache
def some_stats() -> PoolStats:
    with KVCacheManager(1 << 20, "numpy", receipts=False) as manager:
        return manager.get_stats()


class Written:
    """A ledger, and all that stands before it."""

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        self.path = path
        self.options = {"fsync": "never", **options}
        self.memory = MemorySink()
        self.stream = ReceiptStream([])
        self.emitter = ReceiptEmitter(self.stream)

    def open(self) -> None:
        sink = LedgerSink(self.path, **self.options)
        self.stream = ReceiptStream([sink, self.memory])
        self.emitter = ReceiptEmitter(self.stream)

    def emit(self) -> None:
        self.emitter.emit_pool_snapshot(some_stats())
        self.stream.deliver()

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        self.stream.close()

    def check(self) -> None:
        """Every receipt that was made is in the ledger, once; and the ledger is sealed."""
        report = verify(self.path)
        assert report.findings == []
        assert report.is_sealed
        lines = [line for _, line in read_ledger(self.path)]
        found = [line.receipt for line in lines if isinstance(line, ReceiptLine)]
        last = self.stream.last
        made = 0 if last is None else last.sequence + 1
        assert [receipt.sequence for receipt in found] == list(range(made))
        assert [receipt.sequence for receipt in self.memory.receipts] == list(range(made))


def everywhere(kind: Kind) -> Iterator[Injection]:
    """Yield injections, each one place further, until there is no such place."""
    places = 0
    for injection in every_place(kind):
        yield injection
        places += injection.where is not None
    assert places > 10


@pytest.mark.parametrize("step", ["emit", "flush", "close"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", get_args(Kind))
def test_ledger_goes_on(tmp_path: Path, kind: Kind, options: dict[str, Any], step: str) -> None:
    for number, injection in enumerate(everywhere(kind)):
        written = Written(tmp_path / f"{number}.jsonl", options)
        written.open()
        written.emit()
        injected(getattr(written, step), injection)
        try:
            if step != "close":
                written.emit()
            written.close()
            written.check()
        except BaseException as error:
            error.add_note(f"{kind} at place {number + 1}, {injection.where}")
            raise


@pytest.mark.parametrize("kind", get_args(Kind))
def test_opening_can_be_repeated(tmp_path: Path, kind: Kind) -> None:
    """Also where the last writer left half of a line."""
    for number, injection in enumerate(everywhere(kind)):
        path = tmp_path / f"{number}.jsonl"
        before = Written(path, {})
        before.open()
        before.close()
        with path.open("ab") as file:
            file.write(b"torn")
        written = Written(path, {"rotate_at": 2000})
        injected(written.open, injection)
        written.stream.close()
        written = Written(path, {"rotate_at": 2000})
        try:
            written.open()
            written.emit()
            written.close()
            written.check()
        except BaseException as error:
            error.add_note(f"{kind} at place {number + 1}, {injection.where}")
            raise


def signed_and_redacted(path: Path) -> None:
    """Write a ledger whose salt and whose directory are written to the disk, and read it."""
    sink = LedgerSink(path, key=PRIVATE, redact=True, fsync="always")
    sink.close()
    list(read_ledger(path))
    verify(path)


def make_keys(path: Path) -> None:
    generate_key_files(path.with_suffix(".pem"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("call", [signed_and_redacted, make_keys])
def test_no_file_stays_open_or_half_written(tmp_path: Path, call: Callable[[Path], object]) -> None:
    """Interrupts alone: a file is closed without memory, which the injection does not know."""
    for number, injection in enumerate(everywhere("interrupt")):
        path = tmp_path / f"{number}.jsonl"
        injected(partial(call, path), injection)
        assert open_files(str(tmp_path)) == [], injection.where
        small = [file for file in tmp_path.glob(f"{number}.*") if file.suffix != ".jsonl"]
        assert all(file.read_bytes().endswith(b"\n") for file in small), injection.where
