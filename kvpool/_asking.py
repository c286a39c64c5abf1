"""Whether a call comes from the middle of another call of its own thread.

Python runs finalizers and signal handlers in the middle of any call, which may hold a lock. A call
that finds this lock taken asks here whether it would wait for its own thread, and so for ever.
This costs nothing while the lock is free: no call notes which thread takes it.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import FrameType

__all__ = ["is_in_another_call"]

_ROOT = str(Path(__file__).parent)
_HOLDERS = tuple(str(Path(_ROOT, name)) for name in ("manager", "pool", "entry", "receipts"))
_CALLERS_OF_SINKS = {"_hand_out", "_flush", "_close_sinks"}  # these run without those locks


def is_in_another_call() -> bool:
    """Tell whether this thread may hold a lock of a pool or manager, below a caller of kvpool.

    That caller is a finalizer, a signal handler or a plugin; but not a sink, because sinks run
    while no such lock is held.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_ROOT):  # the call that asks
        frame = frame.f_back
    while frame is not None:
        if frame.f_code.co_filename.startswith(_HOLDERS):
            return frame.f_code.co_name not in _CALLERS_OF_SINKS
        frame = frame.f_back
    return False
