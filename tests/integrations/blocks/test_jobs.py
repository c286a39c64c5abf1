"""`Jobs` and `BlockOptions`: transfers beside an engine, and what its configuration may say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvpool.errors import InvalidArgumentError, InvalidOptionError, InvalidSizeError, PluginError
from kvpool.integrations._blocks.jobs import Done, Jobs
from kvpool.integrations._blocks.options import BlockOptions
from tests.support.children import needs_fork
from tests.support.forked import Child


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    with Jobs(1, 100) as one:
        yield one


class Gate:
    """A job that runs until it may go on."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.go_on.wait(60)
        return "done"


def outcomes(done: list[Done]) -> dict[Any, Any]:
    return {one.job: one.result for one in done}


def test_jobs_end_with_what_they_return(jobs: Jobs) -> None:
    jobs.load(1, lambda: [True, False])
    assert jobs.store(2, lambda: "kept", 100)
    assert jobs.drain(60)
    assert outcomes(jobs.finished()) == {1: [True, False], 2: "kept"}
    assert jobs.finished() == []


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_job_that_raises_has_no_result(
    jobs: Jobs, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error("broken")

    jobs.load("it", fail)
    assert jobs.drain(60)
    assert outcomes(jobs.finished()) == {"it": None}
    assert "a transfer of blocks has failed" in caplog.text
    jobs.load("next", lambda: 1)
    assert jobs.drain(60)
    assert outcomes(jobs.finished()) == {"next": 1}


def test_stores_beyond_the_backlog_are_refused(jobs: Jobs) -> None:
    gate = Gate()
    assert jobs.store(1, gate, 60)
    assert not jobs.store(2, gate, 41)
    assert jobs.store(3, gate, 40)
    assert (jobs.backlog, jobs.running) == (100, 2)
    gate.go_on.set()
    assert jobs.drain(60)
    assert outcomes(jobs.finished()) == {1: "done", 3: "done"}
    jobs.close()
    assert (jobs.backlog, jobs.running) == (0, 0)


def test_a_load_does_not_wait_for_stores(jobs: Jobs) -> None:
    gate = Gate()
    jobs.store(1, gate, 1)
    woken = threading.Event()
    jobs.load(2, woken.set)
    assert woken.wait(60)
    assert not jobs.drain(0.01)
    gate.go_on.set()


@needs_fork
def test_in_a_child_of_a_fork_every_job_ends_at_once() -> None:
    """An engine there would wait for ever: the threads are those of the parent."""
    gate, ended = Gate(), list[str]()
    with Jobs(1, 100, on_done=lambda: ended.append("done")) as jobs:
        jobs.load(1, gate)
        assert gate.began.wait(60)

        def act(say: Callable[[str], None]) -> None:
            jobs.load(2, lambda: "loaded")
            say(f"{jobs.finished()} {ended} {jobs.store(3, lambda: 'kept', 1)} {jobs.drain()}")
            jobs.close()
            say("closed")

        with Child(act) as child:
            assert child.line() == f"{[Done(2, None, 0.0)]} ['done'] False False"
            assert child.line() == "closed"
        gate.go_on.set()
        assert jobs.drain(60)
        assert outcomes(jobs.finished()) == {1: "done"}


def test_jobs_that_wait_at_the_end_never_begin() -> None:
    gate, told = Gate(), threading.Semaphore(0)
    jobs = Jobs(1, 100, on_done=told.release)
    jobs.load(1, gate)
    jobs.load(2, gate)
    assert gate.began.wait(60)
    closing = threading.Thread(target=jobs.close)
    closing.start()
    assert told.acquire(timeout=60)  # of the one that never began
    assert outcomes(jobs.finished()) == {2: None}
    gate.go_on.set()
    closing.join()
    assert outcomes(jobs.finished()) == {1: "done"}
    assert not jobs.store(3, gate, 1)
    jobs.load(4, gate)
    assert outcomes(jobs.finished()) == {4: None}


@pytest.mark.parametrize("threads", [0, 1.5, "2"])
def test_threads_are_a_number(threads: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="threads must be"):
        Jobs(threads)


# -- options ---------------------------------------------------------------------------------


def test_options_open_a_pool_and_tiers(tmp_path: Path) -> None:
    url = f"disk:{tmp_path / 'kv'}?capacity=8MiB"
    options = BlockOptions.of({"pool": "1MiB", "policy": "s3-fifo", "tiers": [url], "threads": 1})
    with options.open_store("model") as store, options.open_jobs("test") as jobs:
        jobs.load(1, lambda: store.put([(b"key", b"value")]))
        assert jobs.drain(60)
        assert outcomes(jobs.finished()) == {1: [True]}
        manager = store.manager
        assert manager is not None
        assert [key.namespace for key in manager] == ["blocks"]
    target = bytearray(5)
    with BlockOptions(tiers=url).open_store("model") as store:
        assert store.manager is None
        assert store.load([(b"key", target)]) == [True]
    assert target == b"value"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, 'give "pool", for example "8GiB", or "tiers"'),
        ({"pool": "1MiB", "size": 3}, "there is no option 'size'; there are pool, backend,"),
        ({"tiers": [3]}, '"tiers" must be URLs of tiers, not 3'),
        ({"tiers": 3}, "wrong type"),
        ({"pool": "1MiB", "threads": 0}, "threads must be at least 1, not 0"),
        ({"pool": "1MiB", "queue": "much"}, "queue: invalid size 'much'"),
        ({"pool": "1MiB", "backlog": None}, "backlog must be a whole number, not None"),
        ({"pool": "1MiB", "load_budget": 0}, "load_budget must be above 0, not 0"),
    ],
)
def test_what_is_not_accepted_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        BlockOptions.of(options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"pool": "much"}, InvalidSizeError),
        ({"pool": "1MiB", "policy": "best"}, PluginError),
        ({"tiers": ["memory:", "nowhere:"]}, PluginError),
    ],
)
def test_what_cannot_be_opened_leaves_nothing_open(
    options: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    disk = f"disk:{tmp_path / 'kv'}?capacity=8MiB"
    with pytest.raises(error):
        BlockOptions.of({**options, "tiers": [disk, *options.get("tiers", [])]}).open_store("model")
    with BlockOptions(tiers=disk).open_store("model") as store:  # nobody has it open
        assert store.put([(b"key", b"value")]) == [True]
