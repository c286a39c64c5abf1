from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.sessions import Clock

# No profile has a deadline: a test never fails because the machine was busy.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them and their children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what is there before the first test out of all collections of garbage.

    Thousands of tests wait in memory, which none of them makes garbage of; a test that collects
    garbage would walk through all of them, for longer than all that it does else.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["numpy", "mmap", "ctypes"], scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend that kvpool ships, one after the other."""
    name = str(request.param)
    if name == "ctypes" and sys.platform != "linux":
        pytest.skip("the ctypes backend is for Linux")
    return name


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until a test moves it."""
    return Clock()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Leave garbage where it is."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def views_may_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the end of a view be interrupted: Python prints that, and goes on."""
    monkeypatch.setattr(sys, "unraisablehook", id)
