"""Run the gates of one commit where nothing but that commit can help them.

The commit is checked out in a detached worktree of its own, in a temporary directory: an
editable install of another tree, a file that was never committed or a setting of the shell
would give a false green. The worktree's own script runs, so that an old
milestone is held to its own gates, and makes its own environments.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milestones import environment, kept, settings
from milestones.errors import StackError
from milestones.git import IDENTITY, Git
from milestones.records import GateResult

__all__ = ["GateRun", "Runner", "count_tests", "read_results"]

_PREFIX = "stack-verify-"

_GATE = re.compile(r"=== gate (\w+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COUNTS = re.compile(r"=*\s*((?:\d+ [a-z]+(?:, )?)+) in [\d.:]+s")


@dataclass(frozen=True)
class GateRun:
    """What a run came to.

    Parameters
    ----------
    gates : tuple of GateResult
        Each gate that ran.
    exit_code : int
        Of the script.
    log : str
        SHA-256 of everything that it wrote.
    installed : dict
        The tools that were found in its environments, with their versions.
    files : dict
        What is to be kept of all that it wrote: the log and JUnit files, by name.
    """

    gates: tuple[GateResult, ...]
    exit_code: int
    log: str
    installed: dict[str, str]
    files: dict[str, bytes] = field(default_factory=dict)


class Runner:
    """Runs gates, several at once if asked to, and leaves nothing behind.

    Parameters
    ----------
    git : Git
        The repository. Logs are kept in its git directory, below ``stack/logs``.

    Notes
    -----
    `run` may be called from several threads. `stop` ends every run that is under way, with all
    processes that it started; their worktrees are removed as after any other run.
    """

    def __init__(self, git: Git) -> None:
        self.git = git
        self.logs = git.directory("stack/logs")
        self._stopped = threading.Event()
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()  # of `_running`, and of git's list of worktrees
        _sweep(git)

    def run(
        self,
        commit: str,
        quick: bool,
        excluded: Sequence[str],
        at_gate: Callable[[str], None],
        gates_of: str | None = None,
        only: Sequence[str] = (),
    ) -> GateRun:
        """Run the gates of a commit.

        Parameters
        ----------
        commit : str
            The commit.
        quick : bool
            Only the three that do not run the tests.
        excluded : sequence of str
            Node ids of tests to leave out.
        at_gate : callable
            Called with the name of each gate as it begins.
        gates_of : str, optional
            Another commit, whose gates run on the tree instead of its own.
        only : sequence of str, optional
            The gates that have to run; none stands for all of them.

        Raises
        ------
        StackError
            The gates could not be run, or did not say how they ended. That is not evidence.
        """
        chosen = settings.current()
        script = chosen.script
        with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as directory:
            scratch = Path(directory).resolve()
            result = scratch / "gates.json"
            with self._worktree(commit, scratch / "tree") as tree:
                if gates_of is not None:
                    _take_gates(Git(tree), gates_of)
                if not (tree / script).exists():
                    raise StackError(f"{commit[:12]} has no {script}: its gates cannot be run")
                log, junit = scratch / "log", scratch / "junit"
                junit.mkdir()
                command = ["bash", script, *(["quick"] if quick else [])]
                variables = {
                    chosen.results_variable: str(result),
                    chosen.junit_variable: str(junit),
                    chosen.excluded_variable: "\n".join(excluded),
                    **({chosen.only_variable: " ".join(only)} if only else {}),
                }
                exit_code = self._execute(command, tree, variables, log, at_gate)
                digest = self._keep(log)
                gates = _outcomes(result, log, exit_code, tree, self.logs / f"{digest}.log")
                changed = Git(tree).changes()
                if changed:
                    gates = [_spoilt(one, changed) for one in gates]
                cleaned = tuple(_without_paths(one, tree, scratch) for one in gates)
                files = _files(log, junit, scratch)
                return GateRun(cleaned, exit_code, digest, environment.installed(tree), files)

    def stop(self) -> None:
        """End every run that is under way; what was still to begin does not begin."""
        with self._lock:
            self._stopped.set()
            for process in self._running:
                _end(process)

    @contextmanager
    def _worktree(self, commit: str, path: Path) -> Iterator[Path]:
        try:
            with self._lock:
                self.git.run("worktree", "add", "--quiet", "--detach", str(path), commit)
            yield path
        finally:
            with self._lock:
                # Not by `git worktree remove`: an interrupt may have come before it was whole.
                shutil.rmtree(path, ignore_errors=True)
                self.git.run("worktree", "prune")

    def _execute(
        self,
        command: Sequence[str],
        tree: Path,
        variables: dict[str, str],
        log: Path,
        at_gate: Callable[[str], None],
    ) -> int:
        with self._lock:
            if self._stopped.is_set():
                raise StackError("interrupted")
            process = subprocess.Popen(
                command,
                cwd=tree,
                env=environment.scrubbed() | variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # so that all that it starts can be ended with it
            )
            self._running.add(process)
        try:
            assert process.stdout is not None
            with process.stdout as output, log.open("w", encoding="utf-8") as file:
                for line in output:
                    file.write(line)
                    if gate := _GATE.match(line):
                        at_gate(gate[1])
            exit_code = process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
                _end(process)
        if self._stopped.is_set():
            raise StackError("interrupted")
        return exit_code

    def _keep(self, log: Path) -> str:
        """Keep a log under its digest, so that a record leads to it."""
        digest = hashlib.sha256(log.read_bytes()).hexdigest()
        self.logs.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, self.logs / f"{digest}.log")
        return digest


def count_tests(log: str) -> dict[str, dict[str, int]]:
    """Return how many tests ended how in each gate, from what pytest says at its end.

    Parameters
    ----------
    log : str
        The output of the gates, in which a line ``=== gate NAME`` begins each.

    Returns
    -------
    dict
        By gate, as ``{"test": {"passed": 822, "skipped": 48}}``; where pytest runs several times
        in a gate, that is the sum. A gate without a run of pytest is not in it.
    """
    counts: dict[str, dict[str, int]] = {}
    gate = ""
    for line in _COLOUR.sub("", log).splitlines():
        if begun := _GATE.match(line):
            gate = begun[1]
        elif gate and (said := _COUNTS.match(line)):
            pairs = (part.split() for part in said[1].split(", "))
            sums = counts.setdefault(gate, {})
            for number, word in pairs:
                sums[word] = sums.get(word, 0) + int(number)
    return counts


def _take_gates(git: Git, commit: str) -> None:
    """Put the gates of another commit into a worktree, as a commit of its own."""
    for path in settings.current().definitions:
        git.run("rm", "-r", "--quiet", "--force", "--ignore-unmatch", "--", path)
        if git.lines("ls-tree", "--name-only", commit, "--", path):
            git.run("checkout", commit, "--", path)
    order = ("commit", "--quiet", "--no-verify", "--allow-empty", "--message", "Other gates")
    git.run(*order, env=IDENTITY)


def _outcomes(result: Path, log: Path, exit_code: int, tree: Path, kept: Path) -> list[GateResult]:
    """Read what the gates wrote, and do not believe it where it contradicts itself."""
    text, script = log.read_text(encoding="utf-8"), settings.current().script
    try:
        told = json.loads(result.read_text(encoding="utf-8"))
        entries: list[dict[str, Any]] = told["gates"]
        counts, parts = count_tests(text), _parts(text)
        gates = [
            GateResult(
                gate=one["gate"],
                passed=one["passed"],
                seconds=float(one["seconds"]),
                python=environment.python_of(tree, str(one["gate"])),
                reason=str(one.get("reason", "")),
                tests=counts.get(one["gate"]),
                command=_words(one.get("command")),
                notes=_words(one.get("notes")),
                environment=None
                if one["passed"]
                else _words(one.get("environment")) or _sign(parts.get(one["gate"], "")),
            )
            for one in entries
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        last = "\n".join(text.splitlines()[-5:])
        raise StackError(
            f"{script} ended with {exit_code} and left no results ({error}):\n{last}",
            [f"The whole log: {kept}"],
        ) from error
    if not gates or (exit_code == 0) != all(one.passed for one in gates):
        raise StackError(
            f"{script} ended with {exit_code}, which its results contradict",
            [f"The whole log: {kept}"],
        )
    return gates


def _parts(log: str) -> dict[str, str]:
    """Return what each gate has written, by its name."""
    pieces = _GATE.split(_COLOUR.sub("", log))
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def _sign(log: str) -> str | None:
    """Return the line of a log that says that the machine is to blame; None if there is none."""
    for sign in settings.current().environment_signs:
        if found := re.search(sign, log):
            return " ".join(found[0].split())[:400]
    return None


def read_results(result: Path, log: Path, tree: Path) -> list[GateResult]:
    """Return what gates came to that ran in a working tree, of the files that they wrote.

    Raises
    ------
    StackError
        The files do not say it.
    """
    try:
        told = json.loads(result.read_text(encoding="utf-8"))["gates"]
        exit_code = 0 if all(one["passed"] for one in told) else 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(f"{result} holds no results of gates: {error!r}") from error
    gates = _outcomes(result, log, exit_code, tree, log)
    return [_without_paths(one, tree, tree.parent) for one in gates]


def _files(log: Path, junit: Path, scratch: Path) -> dict[str, bytes]:
    """Return what is to be kept, without what is only true of this machine."""
    found = {"log": log.read_bytes()}
    found |= {path.name: path.read_bytes() for path in sorted(junit.glob("*.xml"))}
    places = ((scratch / "tree", b"."), (scratch, b"scratch"), (Path.home(), b"~"))
    for name, content in found.items():
        cleaned = re.sub(rb' hostname="[^"]*"', b"", content) if name != "log" else content
        for path, short in places:
            cleaned = cleaned.replace(os.fsencode(path), short)
        found[name] = cleaned
    return dict(kept.bounded(name, content) for name, content in found.items())


def _words(told: object) -> str | None:
    """Return one line of what a script told of a gate; None if it told nothing."""
    return " ".join(str(told).split()) if told else None


def _spoilt(gate: GateResult, changed: Sequence[str]) -> GateResult:
    """Take a pass back: gates that change files have run on another tree than the commit's."""
    names = ", ".join(line[3:] for line in changed)
    reason = f"the gates changed files of the tree: {names}"
    return gate.model_copy(update={"passed": False, "reason": reason})


def _without_paths(gate: GateResult, tree: Path, scratch: Path) -> GateResult:
    """Keep one line of a reason, without what is only true of this machine."""
    told = {"reason": gate.reason.strip().partition("\n")[0]}
    told |= {"environment": gate.environment} if gate.environment is not None else {}
    for path, name in ((tree, "."), (scratch, "…"), (Path.home(), "~")):
        told = {key: text.replace(str(path), name) for key, text in told.items()}
    return gate.model_copy(update=told)


def _sweep(git: Git) -> None:
    """Remove what a run left behind that was killed before it could do so itself."""
    for one in git.worktrees():
        scratch = one.path.parent
        owner = re.fullmatch(rf"{_PREFIX}(\d+)-.*", scratch.name)
        if owner and not _runs(int(owner[1])):
            shutil.rmtree(scratch, ignore_errors=True)
    git.run("worktree", "prune")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
