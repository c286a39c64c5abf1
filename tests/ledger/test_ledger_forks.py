"""A child that `os.fork` made leaves the ledger of its parent alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvpool.ledger import verify
from tests.support.terminal import unmeasured

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

BEGIN = """
import gc, os, sys, threading
from kvpool.cache_key import CacheKey
from kvpool.errors import ForkedProcessError
from kvpool.ledger import LedgerSink
from kvpool.manager import KVCacheManager
from kvpool.receipts import MemorySink

path = sys.argv[1]
sink, memory = LedgerSink(path), MemorySink()
manager = KVCacheManager(1 << 20, "numpy", receipts=[sink, memory])
stream = manager.receipts.stream


def evict(number):
    manager.allocate_entry(CacheKey("chat", number), 4096)
    manager.remove_cache_entry(CacheKey("chat", number))


for number in range(5):
    evict(number)
receipt = memory.receipts[-1]
size = os.path.getsize(path)
"""

WAIT = """
_, status = os.waitpid(child, 0)
assert status == 0, status
assert os.path.getsize(path) == size
"""

END = """
for number in range(5, 10):
    evict(number)
manager.close()
"""


def run(path: Path, body: str) -> None:
    """Write a ledger in a new process, whose child does something; the ledger has to verify."""
    command = [sys.executable, "-W", "error", "-c", BEGIN + body, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    report = verify(path)
    assert report.findings == []
    assert report.is_sealed
    assert report.events["kv_eviction"] == 10


def test_child_is_refused(tmp_path: Path) -> None:
    body = """
child = os.fork()
if child == 0:
    for call in (sink.flush, lambda: sink.emit(receipt), stream.flush):
        try:
            call()
        except ForkedProcessError as error:
            assert f"process {os.getppid()}" in str(error), error
        else:
            os._exit(1)
    sink.head
    os._exit(0)
"""
    run(tmp_path / "a.jsonl", body + WAIT + END)


LEAVE = [
    "sink.close(); stream.close(); os._exit(0)",
    "with sink: pass\nsys.exit(0)",
    "del sink, stream, memory; manager = None; gc.collect(); sys.exit(0)",
    "stream.put(receipt); stream.deliver(); sys.exit(len(memory.receipts) - 5)",
    "sys.exit(0)",
]


def test_child_that_ends_touches_nothing(tmp_path: Path) -> None:
    """However it ends; each child is one of the same parent, which goes on after the last."""
    children = []
    for leave in LEAVE:
        lines = "".join(f"    {line}\n" for line in leave.splitlines())
        children.append(f"child = os.fork()\nif child == 0:\n{lines}{WAIT}")
    run(tmp_path / "a.jsonl", "".join(children) + END)


def test_child_that_was_made_while_another_thread_wrote_does_not_hang(tmp_path: Path) -> None:
    body = """
held, done = threading.Event(), threading.Event()


def hold():
    with sink._lock, stream._gate, stream._delivery:
        held.set()
        done.wait()


holder = threading.Thread(target=hold)
holder.start()
held.wait()
import warnings
warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads
child = os.fork()
if child == 0:
    try:
        sink.flush()
    except ForkedProcessError:
        sink.close()
        stream.deliver()
        stream.close()
        sink.head
        os._exit(0)
    os._exit(1)
done.set()
holder.join()
"""
    run(tmp_path / "a.jsonl", body + WAIT + END)


def test_lock_ends_with_the_parent_and_not_with_the_child(tmp_path: Path) -> None:
    body = """
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.close(writer)
    os.read(reader, 1)  # until the parent is done
    os._exit(0)
for number in range(5, 10):
    evict(number)
manager.close()
LedgerSink(path).close()  # while the child still lives
os.close(writer)
_, status = os.waitpid(child, 0)
assert status == 0, status
"""
    run(tmp_path / "a.jsonl", body)


def test_killed_parent_leaves_no_lock_with_its_child(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    body = """
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, b"1")  # the handlers of the fork have run
    while True:
        threading.Event().wait()
os.read(reader, 1)
print(child, flush=True)
os._exit(0)
"""
    command = [sys.executable, "-c", BEGIN + body, str(path)]
    with subprocess.Popen(command, env=unmeasured(), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.wait(60)
            script = "import sys; from kvpool.ledger import LedgerSink; LedgerSink(sys.argv[1])"
            again = [sys.executable, "-c", script, str(path)]
            done = subprocess.run(
                again, env=unmeasured(), capture_output=True, text=True, check=False
            )
        finally:
            os.kill(child, 9)
    assert "being written" not in done.stderr
