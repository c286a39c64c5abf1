"""`CopyWorker` and its spec: blocks of every group and part of a chunk, and no file is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpool.errors import InvalidOptionError

pytestmark = pytest.mark.engines

MakeOffloading = Callable[..., Any]


def test_a_transfer_may_begin_and_end_inside_of_a_chunk(parts: Any, make: MakeOffloading) -> None:
    engine = make({"type": "example"}, blocks_per_chunk=4)
    blocks = [10, 3, 7, 20, 21]
    for place, block in enumerate(blocks):
        for layer, page in enumerate(engine.contents(place, 0)):
            engine.tensors[layer][block].numpy()[:] = page
    # The first block is the third one of chunk 5, and the last one the third of chunk 2.
    spec = parts.GPULoadStoreSpec(blocks, [5], [6])
    chunks = parts.CPULoadStoreSpec([5, 2])
    engine.transfer(engine.worker.submit_store, spec, chunks)
    rows = np.asarray(engine.manager.primary_tier.get_kv_memoryview())
    for layer in range(parts.LAYERS):
        row = rows[:, layer * 4 * parts.PAGE : (layer + 1) * 4 * parts.PAGE]
        pages = row.reshape(len(rows), 4, parts.PAGE)
        for place, (chunk, part) in enumerate([(5, 2), (5, 3), (2, 0), (2, 1), (2, 2)]):
            assert np.array_equal(pages[chunk, part], engine.contents(place, 0)[layer])
    del rows, row, pages
    for tensor in engine.tensors:
        tensor.zero_()
    engine.transfer(engine.worker.submit_load, chunks, spec)
    for place, block in enumerate(blocks):
        there = [tensor[block].numpy() for tensor in engine.tensors]
        assert np.array_equal(there, engine.contents(place, 0))


def test_canonical_layout_is_refused(parts: Any) -> None:
    with pytest.raises(InvalidOptionError, match="canonical_layout is for GPUs"):
        parts.Offloading(canonical_layout=True)


def test_worker_and_manager_are_made_once(make: MakeOffloading) -> None:
    engine = make({"type": "example"})
    assert engine.spec.get_manager() is engine.manager
    assert engine.worker_spec.get_worker(None) is engine.worker


def test_the_memory_has_no_name_once_all_have_it(make: MakeOffloading) -> None:
    engine = make({"type": "example"})
    assert not engine.path.exists()
    assert engine.store(1) == [1]
    assert engine.load(1) == 1


def test_a_worker_without_a_scheduler_leaves_no_file(parts: Any) -> None:
    spec = parts.worker_alone()
    path = parts.path_of(spec)
    assert path.exists()
    spec.get_worker(None).shutdown()
    assert not path.exists()


def test_processes_that_are_killed_leave_no_file(parts: Any) -> None:
    assert parts
    program = Path(__file__).parents[2] / "support" / "vllm_killed.py"
    before = set(Path("/dev/shm").glob("vllm_offload_*"))
    child = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
    assert set(Path("/dev/shm").glob("vllm_offload_*")) <= before


def test_a_worker_that_cannot_be_made_leaves_no_file(parts: Any) -> None:
    spec = parts.OffloadingSpecFactory.create_spec(parts.make_config())
    tensors = parts.make_tensors()
    with pytest.raises(AssertionError, match="exceeds worker area"):
        spec.get_worker(parts.as_caches([*tensors, *tensors]))
    assert not parts.path_of(spec).exists()


def test_on_a_gpu_it_is_the_spec_of_vllm(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parts.OffloadingSpecFactory.create_spec(parts.make_config())
    monkeypatch.setattr(type(parts.current_platform), "is_cpu", lambda _: False)
    with pytest.raises(Exception, match="only supported on CUDA-alike"):
        spec.get_worker(parts.as_caches(parts.make_tensors()))
