"""The installed command, run as a user runs it: through pipes, or in a terminal."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tests.support.command_server import CAN_FORK, CommandServer

KVPOOL = str(Path(sysconfig.get_path("scripts")) / "kvpool")

_server = CommandServer()


def environment(**variables: str) -> dict[str, str]:
    """The environment without what could change the output."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("KVPOOL_")}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "LINES"):
        ours.pop(name, None)
    return ours | {"COLUMNS": "80", "PYTHONUTF8": "1", **variables}


def unmeasured(**variables: str) -> dict[str, str]:
    """The environment of a process that Ctrl-C is sent to, in which coverage is not measured.

    An interrupt in the tracer of coverage leaves a lock of the tracer taken. The process would then
    wait for that lock for ever.
    """
    ours = environment(**variables)
    return {name: value for name, value in ours.items() if "COVERAGE" not in name}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run to the end, in a process of its own, and return what it printed."""
    return run_in(Path.cwd(), *arguments, **variables)


def run_into(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run to the end, as `run` does; what it prints goes to a file or a device."""
    if CAN_FORK:
        return _server.run(arguments, environment(), Path.cwd(), output)
    with output.open("w", encoding="utf-8") as stream:
        return subprocess.run(
            [KVPOOL, *arguments],
            env=environment(),
            stdout=stream,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            check=False,
        )


def run_in(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run to the end in a folder, as `run` does in the current one."""
    if CAN_FORK and not any(name.startswith("PYTHON") for name in variables):
        return _server.run(arguments, environment(**variables), folder)
    return subprocess.run(
        [KVPOOL, *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@contextlib.contextmanager
def in_terminal(
    *arguments: str, interrupted: bool = False, **variables: str
) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[str]]]:
    """Start in a terminal of 80 columns; yield the process, and what it prints as it comes.

    One that will be `interrupted` by a Ctrl-C is not measured.
    """
    ours, its = os.openpty()
    surroundings = unmeasured if interrupted else environment
    try:
        with subprocess.Popen(
            [KVPOOL, *arguments],
            env=surroundings(TERM="xterm-256color", LINES="24", **variables),
            stdin=its,
            stdout=its,
            stderr=its,
        ) as process:
            os.close(its)
            yield process, _chunks(ours)
    finally:
        os.close(ours)


def _chunks(terminal: int) -> Iterator[str]:
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # how a terminal says that nobody is there any more
            return
        if not chunk:
            return
        yield chunk.decode("utf-8", "replace")
