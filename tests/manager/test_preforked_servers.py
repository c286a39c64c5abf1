"""Servers that fork their workers after they made a manager, and children that end."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import warnings
from pathlib import Path

from kvpool.errors import ForkedProcessError
from kvpool.ledger import verify
from kvpool.manager import KVCacheManager
from tests.support.children import needs_fork
from tests.support.sessions import LAYOUT, bits, key_of, random_tokens

pytestmark = needs_fork

BEGIN = """
import gc, os, sys
import numpy as np
from kvpool import CacheKey, KVCacheManager, KVLayout
from kvpool.errors import ForkedProcessError
from kvpool.ledger import LedgerSink

backend, arena, ledger = sys.argv[1:]
layout = KVLayout(1, 1, 64, "float32")
options = {"path": arena} if arena else {}


def new_manager(receipts=False, **options):
    return KVCacheManager(4 << 20, backend, layout, receipts=receipts, **options)


def fill(manager, number, value):
    entry = manager.create_cache_entry(CacheKey("chat", number), 64)
    tokens = np.full((1, 1, 32, 64), value, "float32")
    entry.extend(tokens, tokens)
    return entry


def evict(manager, number):
    manager.allocate_entry(CacheKey("gone", number), 4096)
    manager.remove_cache_entry(CacheKey("gone", number))


manager = new_manager(LedgerSink(ledger), **options)
entry = fill(manager, 1, 7.0)
evict(manager, 1)
before = manager.pool.stats(), os.path.getsize(ledger)
"""

END = """
for child in children:
    _, status = os.waitpid(child, 0)
    assert status == 0, status
assert (manager.pool.stats(), os.path.getsize(ledger)) == before
assert np.unique(entry.keys()).tolist() == [7.0]
manager.check_integrity()
evict(manager, 2)
manager.close()
"""


def run(backend: str, folder: Path, body: str) -> None:
    """Run a program with a file of the arena and a ledger, which has to verify."""
    arena = str(folder / "arena") if backend == "mmap" else ""
    ledger = folder / "ledger.jsonl"
    command = [sys.executable, "-W", "error", "-c", BEGIN + body + END, backend, arena, str(ledger)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    report = verify(ledger)
    assert report.findings == []
    assert report.is_sealed
    assert report.events["kv_eviction"] == 3


LEAVE = [
    "with manager: sys.exit(0)",
    "manager.close()\nos._exit(0)",
    "del manager, entry\ngc.collect()\nsys.exit(0)",
    "sys.exit(0)",
]


def test_children_that_end_change_nothing(backend: str, tmp_path: Path) -> None:
    body = "children = []\n"
    for leave in LEAVE:
        lines = "".join(f"    {line}\n" for line in leave.splitlines())
        body += f"child = os.fork()\nif child == 0:\n{lines}children.append(child)\n"
    run(backend, tmp_path, body)


def test_workers_of_a_server_that_made_a_manager_before(backend: str, tmp_path: Path) -> None:
    """As `gunicorn --preload`: the listener and the manager are made first, then the workers."""
    body = """
import http.client, http.server, signal


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            if self.path == "/inherited":
                fill(manager, 2, 1.0)
                answer = b"?"
            else:
                answer = str(np.unique(fill(own, 2, float(os.getpid())).keys()).tolist()).encode()
                own.remove_cache_entry(CacheKey("chat", 2))
        except ForkedProcessError:
            answer = b"refused"
        self.send_response(200)
        self.send_header("X-Worker", str(os.getpid()))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
started, ready = os.pipe()
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with server, new_manager() as own:  # made as a hook post_fork does it
            os.write(ready, b"1")
            server.serve_forever()
    children.append(child)
assert os.read(started, 1) + os.read(started, 1) == b"11"


def get(path):
    connection = http.client.HTTPConnection(*server.server_address)
    connection.request("GET", path)
    response = connection.getresponse()
    answer = response.read().decode(), int(response.headers["X-Worker"])
    connection.close()
    return answer


for _ in range(20):
    assert get("/inherited")[0] == "refused"
    values, worker = get("/own")
    assert worker in children
    assert values == str([float(worker)]), values
for child in children:
    os.kill(child, signal.SIGTERM)
server.server_close()
"""
    run(backend, tmp_path, body)


def outcome(manager: KVCacheManager) -> str:
    try:
        manager.create_cache_entry(key_of(2), 8)
    except ForkedProcessError:
        return "refused"
    return "?"


def work(manager: KVCacheManager, answers: multiprocessing.SimpleQueue[str]) -> None:
    answers.put(outcome(manager))
    with manager:
        pass


def test_workers_of_multiprocessing(backend: str) -> None:
    context = multiprocessing.get_context("fork")
    with KVCacheManager(1 << 20, backend, LAYOUT, receipts=False) as manager:
        entry = manager.create_cache_entry(key_of(1), 8)
        entry.extend(*random_tokens(LAYOUT, 3))
        before = bits(entry.keys()), manager.pool.stats()
        answers: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
        workers = [context.Process(target=work, args=(manager, answers)) for _ in range(3)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            for worker in workers:
                worker.start()
        assert [answers.get() for _ in workers] == ["refused"] * 3
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert (bits(entry.keys()), manager.pool.stats()) == before
        manager.check_integrity()
