"""Processes of `kvpool` without the time that Python takes to import it.

A server imports `kvpool.cli` once and forks a process for each command. Such a process has standard
streams, an environment and a working directory of its own, and ends as the installed command does.
Python itself does not start in it, so variables for Python's start (PYTHON…) have no effect.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kvpool.cli import app, main

__all__ = ["CAN_FORK", "CommandServer", "serve"]

CAN_FORK = sys.platform == "linux"
"""On macOS, a forked process may not use every library of the system; Windows has no fork."""

# What the command imports of other projects as it draws a help text or an error, which most of
# its tests have it do. No module of kvpool: when those are imported is the command's own.
_OF_OTHERS = ("pydantic", "rich.markdown", "rich.pretty", "rich.traceback", "typer.rich_utils")

_ROOT = Path(__file__).parents[2]


class CommandServer:
    """Runs one command after the other. Any thread may ask for one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `kvpool` with some arguments in a folder to its end; return what it printed.

        Standard output may go to a file or a device instead.
        """
        with self._lock, tempfile.TemporaryDirectory(prefix="kvpool-command-") as streams:
            out, err = Path(streams, "stdout"), Path(streams, "stderr")
            request = {
                "arguments": list(arguments),
                "environment": dict(environment),
                "folder": str(folder),
                "streams": [str(output or out), str(err)],
            }
            code = self._ask(json.dumps(request))
            texts = [
                stream.read_text(encoding="utf-8") if stream.exists() else ""
                for stream in (out, err)
            ]
        return subprocess.CompletedProcess(["kvpool", *arguments], code, *texts)

    def _ask(self, request: str) -> int:
        if self._process is None:
            self._process = self._start()
            atexit.register(self._end)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(request, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the server of commands has ended"
        return int(answer)

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        # The root stands at the end of the path: the server meets the installed kvpool.
        program = (
            f"import sys; sys.path.append({str(_ROOT)!r}); import {__name__} as it; it.serve()"
        )
        return subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # a fork copies one thread alone
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.communicate()


def serve() -> None:
    """Run the commands that lines of standard input ask for, until it ends."""
    assert app.info.name == "kvpool"  # and so it is imported
    for name in _OF_OTHERS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that no process copies the memory of all modules as it collects garbage
    for line in sys.stdin:
        process = os.fork()
        if not process:
            _become(json.loads(line))
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict[str, Any]) -> NoReturn:
    """Be the process of a command, and end with it."""
    files = [
        os.open(os.devnull, os.O_RDONLY),
        *(os.open(stream, os.O_WRONLY | os.O_CREAT) for stream in request["streams"]),
    ]
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = ["kvpool", *request["arguments"]]
    main()
    sys.exit()
