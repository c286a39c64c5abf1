"""What a queue of events says, and when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpool.errors import InvalidArgumentError
from kvpool.events import (
    AllBlocksCleared,
    BlockHash,
    BlockRemoved,
    BlockStored,
    Event,
    EventBatch,
    EventQueue,
    decode_batch,
    encode_batch,
)
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.prefix import Identity, chunk_names, token_bytes
from tests.support.children import in_child, needs_fork
from tests.support.injection import every_place
from tests.support.sessions import key_of

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=4, dtype="float16")


def made(events: EventQueue | None, **options: Any) -> KVCacheManager:
    return KVCacheManager(
        1 << 20, "numpy", LAYOUT, receipts=False, chunk_tokens=4, events=events, **options
    )


def serve(
    manager: KVCacheManager, tokens: Sequence[int], number: int | str = 1, **options: Any
) -> None:
    entry, left = manager.open_session(tokens, key_of(number), **options)
    new = np.zeros((1, 1, left, 4), "float16")
    entry.extend(new, new)
    manager.close_session(entry, tokens)


def names(tokens: Sequence[int], model: str = "", salt: str = "") -> list[BlockHash]:
    return list(chunk_names(Identity(model, salt, LAYOUT), token_bytes(tokens), 4))


def test_whole_chunks_are_stored_behind_those_before_them() -> None:
    events = EventQueue(hashes="bytes")
    with made(events) as manager:
        serve(manager, range(10))
        serve(manager, range(17))
        first, second = names(range(10))
        assert events.take() == [
            stored([first, second], None, range(8)),
            stored(names(range(17))[2:], second, range(8, 16)),
        ]
        assert events.take() == []


def stored(hashes: Sequence[Any], parent: Any, tokens: Sequence[int], **fields: Any) -> BlockStored:
    known = {"block_size": 4, "lora_id": None, "medium": "CPU", "lora_name": None} | fields
    return BlockStored(list(hashes), parent, list(tokens), **known)


def test_chunks_that_several_sessions_hold_are_removed_with_the_last() -> None:
    events = EventQueue(hashes="bytes")
    with made(events) as manager:
        serve(manager, [*range(8), 9, 9, 9, 9])
        serve(manager, [*range(8), 7, 7, 7, 7], 2)
        assert sum(len(event.block_hashes) for event in stored_of(events)) == 4
        manager.remove_cache_entry(key_of(1))
        assert events.take() == [BlockRemoved(names([*range(8), 9, 9, 9, 9])[2:], "CPU")]
        manager.remove_cache_entry(key_of(2))
        assert events.take() == [BlockRemoved(names([*range(8), 7, 7, 7, 7])[::-1], "CPU")]


def stored_of(events: EventQueue) -> list[BlockStored]:
    return [event for event in events.take() if isinstance(event, BlockStored)]


def test_a_trimmed_tail_is_removed_by_the_chunk() -> None:
    events = EventQueue(hashes="bytes")
    with made(events, prefix_tokens=20) as manager:
        serve(manager, range(17))
        events.take()
        serve(manager, range(100, 112), 2)
        gone = names(range(17))[2:]
        assert events.take()[0] == BlockRemoved(gone[::-1], "CPU")


def test_names_are_numbers_of_64_bits_unless_bytes_are_wanted() -> None:
    events = EventQueue()
    with made(events) as manager:
        serve(manager, range(8))
        (event,) = stored_of(events)
    whole = chunk_names(Identity("", "", LAYOUT), token_bytes(range(8)), 4)
    assert event.block_hashes == [int.from_bytes(name[-8:], "big") for name in whole]


def test_other_models_and_salts_are_told_apart() -> None:
    events = EventQueue(hashes="bytes", base_model="base")
    with made(events) as manager:
        for number, (model, salt) in enumerate([("base", ""), ("tuned", ""), ("", "s3cret")]):
            serve(manager, range(4), number, model_id=model, salt=salt)
        base, tuned, salted = stored_of(events)
    assert (base.lora_name, tuned.lora_name, salted.lora_name) == (None, "tuned", None)
    assert (base.extra_keys, tuned.extra_keys) == (None, None)
    assert salted.extra_keys is not None
    assert len(salted.extra_keys) == 1
    assert "s3cret" not in repr(salted)
    found = [one.block_hashes[0] for one in (base, tuned, salted)]
    assert found == [
        *names(range(4), "base"),
        *names(range(4), "tuned"),
        *names(range(4), "", "s3cret"),
    ]


def test_a_model_whose_name_is_not_text_can_be_sent() -> None:
    events = EventQueue()
    with made(events) as manager:
        serve(manager, range(4), model_id="a\ud800")
        (stored,) = stored_of(events)
    assert stored.lora_name == "a\\ud800"
    assert decode_batch(encode_batch(EventBatch(0.0, [stored]))).events == [stored]


def test_a_queue_that_is_full_begins_anew() -> None:
    events = EventQueue(limit=3)
    with made(events) as manager:
        for number in range(5):
            serve(manager, [number, *range(7)], number)
        assert events.take() == []  # too many: the next call tells all
        assert not manager.is_open(key_of(1))
        told = events.take()
        assert told[0] == AllBlocksCleared()
        assert (
            sum(len(event.block_hashes) for event in told if isinstance(event, BlockStored)) == 10
        )
        serve(manager, [9, *range(7)], 9)
        assert len(stored_of(events)) == 1


def test_all_is_told_again_to_who_comes_late() -> None:
    events = EventQueue()
    with made(events) as manager:
        serve(manager, range(8))
        first = events.take()
        events.resend()
        assert events.take() == []  # until the next call
        assert len(manager) == 1
        assert events.take() == [AllBlocksCleared(), *first]


def test_sessions_without_tokens_are_no_events() -> None:
    events = EventQueue()
    with made(events) as manager:
        manager.get_or_create_cache(key_of(1), 64)
        manager.remove_cache_entry(key_of(1))
        serve(manager, range(3))  # not a whole chunk
        assert events.take() == []


def test_the_end_of_a_manager_is_told() -> None:
    events = EventQueue()
    manager = made(events)
    serve(manager, range(8))
    events.take()
    manager.close()
    assert events.take() == [AllBlocksCleared()]
    manager.close()
    assert events.take() == []


@pytest.mark.parametrize("waiting", [1, 2, 3])
def test_the_end_of_a_manager_is_told_however_much_is_lost(waiting: int) -> None:
    events = EventQueue(limit=2)
    manager = made(events)
    serve(manager, range(8))
    events.take()
    for number in range(waiting):
        serve(manager, [number] * 8, number + 2)
    manager.close()
    assert events.take()[-1] == AllBlocksCleared()
    assert events.take() == []


class Waking(EventQueue):
    """Takes its events when it is woken, and looks at the manager."""

    def __init__(self, limit: int = 100) -> None:
        super().__init__(limit=limit)
        self.manager: KVCacheManager | None = None
        self.taken: list[Event] = []
        self.fails = False

    def wake(self) -> None:
        assert self.manager is not None
        assert self.manager.get_stats().is_exact  # so the lock is free
        if self.fails:
            raise OSError("gone")
        self.taken += self.take()


def test_the_lock_is_free_when_events_are_delivered() -> None:
    events = Waking()
    with made(events) as events.manager:
        serve(events.manager, range(8))
        assert len(events.taken) == 1


def test_who_is_woken_asks_for_what_one_call_lost() -> None:
    events = Waking(limit=3)
    with made(events) as events.manager:
        for number in range(5):
            serve(events.manager, [number] * 4, number)
        events.manager.clear()  # 5 changes
        assert len(events.taken) == 5
        serve(events.manager, range(4))
        assert events.taken[5] == AllBlocksCleared()
        assert isinstance(events.taken[-1], BlockStored)


def test_an_interrupt_of_a_delivery_silences_nobody() -> None:
    events = Waking()
    with made(events) as events.manager:
        for number, injection in enumerate(every_place("interrupt")):
            serve(events.manager, [number] * 4, number)
            with suppress(KeyboardInterrupt), injection:
                events.manager.remove_cache_entry(key_of(number))
            events.manager.session_keys()  # tells all, if `take` was interrupted
            events.taken = []
            serve(events.manager, [number + 1000] * 4, "next")
            assert any(isinstance(event, BlockStored) for event in events.taken), injection.where
            events.manager.remove_cache_entry(key_of("next"))


def test_a_sink_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    events = Waking()
    with made(events) as events.manager:
        events.fails = True
        serve(events.manager, range(8))
        serve(events.manager, range(16))
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "gone" in caplog.text
        events.fails = False
        serve(events.manager, range(24))
        assert len(events.taken) == 3  # nothing was lost


def test_a_queue_belongs_to_one_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPOOL_LEDGER", str(tmp_path / "ledger"))
    events = EventQueue()
    with made(events), pytest.raises(InvalidArgumentError, match="belongs to another manager"):
        KVCacheManager(1 << 20, "numpy", receipts="ledger", events=events)
    assert not list(tmp_path.iterdir())  # nothing was opened


@pytest.mark.parametrize("odd", [[], "zmq", EventQueue, 1])
def test_what_is_not_a_queue_is_refused(odd: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="events must be an EventQueue, not"):
        made(odd)


@pytest.mark.parametrize(
    ("option", "odd"),
    [
        ("hashes", "sha256"),
        ("medium", 1),
        ("medium", 0),
        ("medium", "\ud800"),
        ("base_model", None),
        ("base_model", "\ud800"),
        ("limit", 0),
        ("limit", "many"),
    ],
)
def test_odd_options_are_refused(option: str, odd: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=option):
        EventQueue(**{option: odd})


@needs_fork
def test_a_child_has_no_events() -> None:
    events = EventQueue()
    with made(events) as manager:
        serve(manager, range(8))
        in_child(partial(nothing_is_told, events))
        assert len(events.take()) == 1


def nothing_is_told(events: EventQueue) -> None:
    assert events.take() == []


def test_nothing_is_loaded_unless_somebody_listens() -> None:
    code = (
        "import sys, kvpool; kvpool.KVCacheManager(1 << 20, 'numpy', receipts=False); "
        "sys.exit('zmq' in sys.modules or 'kvpool.events._queue' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
