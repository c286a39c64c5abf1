"""Run the gates of milestones and keep a record of each run."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Protocol

from milestones import environment, kept, reuse, settings
from milestones.errors import StackError
from milestones.evidence import Found, Store, usable
from milestones.facts import Fact, find_trunk, left_trunk
from milestones.gaterun import Runner
from milestones.git import Git
from milestones.manifest import Exclusion, Manifest, Milestone, exclusions_in
from milestones.records import Excluded, GateResult, Keys, Record, seal

__all__ = ["Job", "Outcome", "Progress", "plan", "verify"]


class Progress(Protocol):
    """What is told of a run while it goes on; called from several threads."""

    def begin(self, job: Job) -> None:
        """Tell that the gates of a milestone begin."""

    def at_gate(self, job: Job, gate: str) -> None:
        """Tell that one gate begins."""

    def end(self, outcome: Outcome) -> None:
        """Tell what a milestone came to."""


@dataclass(frozen=True)
class Job:
    """A milestone to verify: at which commit, without which tests, and what that depends on.

    If it changes the gates, `gates_of` is the commit of the trunk whose gates run as well.
    `lasted` has the seconds of each gate when it last ran, `reusable` the gates that need not run.
    """

    milestone: Milestone
    fact: Fact
    exclusions: tuple[Exclusion, ...]
    keys: Keys
    gates_of: str | None = None
    lasted: Mapping[str, float] = field(default_factory=dict)
    reusable: Mapping[str, GateResult] = field(default_factory=dict)
    quick: bool = False


@dataclass(frozen=True)
class Outcome:
    """What verifying a milestone came to: a record, or an error, which is not evidence."""

    job: Job
    record: Record | None
    reused: bool = False
    error: StackError | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


def plan(
    git: Git,
    stacks: Mapping[str, Manifest],
    facts: Mapping[str, Fact],
    wanted: Sequence[str],
    today: date,
) -> list[Job]:
    """List what there is to verify.

    Parameters
    ----------
    git, stacks, facts
        The repository, its manifests, and where milestones are.
    wanted : sequence of str
        Names of milestones or of stacks; none stands for every milestone that is there.
    today : date
        Decides over exclusions that expire.

    Raises
    ------
    StackError
        A name is unknown, or stands for nothing that could be verified.
    """
    every = {one.key: one for manifest in stacks.values() for one in manifest.milestones}
    chosen: list[str] = []
    for name in wanted or stacks:
        if name in stacks:
            chosen += [one.key for one in stacks[name].milestones if one.key in facts]
        elif name not in every:
            known = ", ".join([*stacks, *every])
            raise StackError(f"there is no milestone {name!r}; there are {known}")
        elif name not in facts:
            raise StackError(
                f"{name} is planned: there is neither a branch {every[name].branch} nor a "
                f"commit on the trunk with the trailer 'Milestone: {name}'"
            )
        else:
            chosen.append(name)
    if not chosen:
        raise StackError("there is nothing to verify: every milestone is planned")
    return [
        _job(git, stacks[key.partition("/")[0]], every[key], facts[key], today)
        for key in dict.fromkeys(chosen)
    ]


def verify(
    git: Git,
    jobs: Sequence[Job],
    found: Sequence[Found],
    progress: Progress,
    *,
    quick: bool = False,
    again: bool = False,
    parallel: int = 1,
) -> list[Outcome]:
    """Run the gates of milestones, and add a record of each run to the notes.

    Parameters
    ----------
    git : Git
        The repository.
    jobs : sequence of Job
        What to verify.
    found : sequence of Found
        The records that there are. One with equal keys makes a run needless.
    progress : Progress
        Is told how it goes on.
    quick : bool, optional
        Run three of the six gates. Such a record is never green.
    again : bool, optional
        Run all gates, whatever records there are. Without it, a gate that has passed with the
        same inputs does not run; its result is taken over, with the record it comes from.
    parallel : int, optional
        How many milestones at once.

    Returns
    -------
    list of Outcome
        In the order of the jobs.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C or SIGTERM, after every process was ended and every worktree removed.
    """
    outcomes: dict[str, Outcome] = {}
    for job in jobs:
        old = None if again else usable(found, job.milestone.key, job.keys, quick=quick)
        lacks = not quick and job.gates_of is not None
        if old is not None and not (lacks and old.trunk_gates is None):
            outcomes[job.milestone.key] = Outcome(job, old, reused=True)
            progress.end(outcomes[job.milestone.key])
    runner, store = Runner(git), Store(git)
    pool = ThreadPoolExecutor(parallel)
    waiting = {
        pool.submit(_run, runner, _with_what_is_known(git, job, found, again, quick), progress)
        for job in jobs
        if job.milestone.key not in outcomes
    }
    try:
        with _interruptible():
            for outcome in _as_they_end(waiting):
                if outcome.record is not None:
                    store.add(outcome.record)
                    kept.keep(git, outcome.record.digest, outcome.files)
                outcomes[outcome.job.milestone.key] = outcome
                progress.end(outcome)
    finally:
        runner.stop()
        pool.shutdown(wait=True, cancel_futures=True)
    return [outcomes[job.milestone.key] for job in jobs]


def _job(git: Git, manifest: Manifest, milestone: Milestone, fact: Fact, today: date) -> Job:
    trunk = find_trunk(git, manifest.trunk)
    # Of the commit that is verified: what was never committed leaves nothing out. An exclusion
    # that has expired no longer leaves its test out.
    valid = tuple(one for one in _exclusions(git, milestone, fact) if one.expires > today)
    keys = environment.keys(git, fact.tree, valid)
    if fact.merged or not fact.gates_changed:
        return Job(milestone, fact, valid, keys)
    return Job(milestone, fact, valid, keys, left_trunk(git, trunk, fact.commit))


def _exclusions(git: Git, milestone: Milestone, fact: Fact) -> list[Exclusion]:
    stack = milestone.key.partition("/")[0]
    path = f"{settings.current().pages}/{stack}.toml"
    shown = git.attempt("show", f"{fact.tree}:{path}")
    return exclusions_in(stack, milestone.key, shown.stdout) if shown.returncode == 0 else []


def _run(runner: Runner, job: Job, progress: Progress) -> Outcome:
    progress.begin(job)
    quick = job.quick
    started, clock = datetime.now(UTC), time.perf_counter()
    left_out = [one.test for one in job.exclusions]
    only = _to_run(job)
    try:
        ran = runner.run(
            job.fact.commit,
            quick,
            left_out,
            at_gate=lambda gate: progress.at_gate(job, gate),
            only=only,
        )
        trunk_gates = None if quick else _gates_of_trunk(runner, job, left_out, progress)
    except StackError as error:
        return Outcome(job, None, error=error)
    keys = job.keys
    record = seal(
        milestone=job.milestone.key,
        commit=job.fact.commit,
        tree=keys.tree,
        scope="quick" if quick else "full",
        definitions=keys.definitions,
        locks=keys.locks,
        interpreters=keys.interpreters,
        tools=keys.tools,
        installed=ran.installed,
        os=keys.os,
        excluded=[Excluded(**one.model_dump()) for one in job.exclusions],
        started=started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        seconds=max(round(time.perf_counter() - clock, 1), 0.1),  # none would be no time at all
        exit_code=ran.exit_code,
        gates=_together(job, ran.gates) if only else list(ran.gates),
        log=ran.log,
        trunk_gates=trunk_gates,
        files=kept.digests(ran.files),
    )
    return Outcome(job, record, files=ran.files)


def _with_what_is_known(
    git: Git, job: Job, found: Sequence[Found], again: bool, quick: bool
) -> Job:
    """Return a job with what records say of its gates: how long they take, which need not run."""
    known = {} if again or quick else reuse.reusable(git, found, job.keys)
    lasted = reuse.lasted(found, job.milestone.key)
    return replace(job, lasted=lasted, reusable=known, quick=quick)


def _to_run(job: Job) -> tuple[str, ...]:
    """Return the gates that have to run, if some need not; at least one runs, and leaves a log."""
    every = settings.current().gates
    needed = tuple(gate for gate in every if gate not in job.reusable)
    shortest = min(every, key=lambda gate: job.lasted.get(gate, 0.0))
    return (needed or (shortest,)) if job.reusable else ()


def _together(job: Job, ran: Sequence[GateResult]) -> list[GateResult]:
    """Return the gates that ran, and what was taken over, in their order."""
    names = {one.gate for one in ran}
    taken = [one for gate, one in job.reusable.items() if gate not in names]
    every = settings.current().gates
    return sorted(
        [*ran, *taken], key=lambda one: every.index(one.gate) if one.gate in every else len(every)
    )


def _gates_of_trunk(
    runner: Runner, job: Job, left_out: Sequence[str], progress: Progress
) -> list[GateResult] | None:
    """Run the gates of the trunk on a milestone that changes them; None if it does not."""
    if job.gates_of is None:
        return None
    if not runner.git.lines("ls-tree", job.gates_of, "--", settings.current().script):
        return []
    try:
        ran = runner.run(
            job.fact.commit,
            quick=False,
            excluded=left_out,
            at_gate=lambda gate: progress.at_gate(job, f"{gate}, as the trunk has it"),
            gates_of=job.gates_of,
        )
    except StackError as error:
        if str(error) == "interrupted":
            raise
        reason = str(error).partition("\n")[0]
        nothing = GateResult(
            gate="all", passed=False, seconds=0.0, python="", reason=reason, tests=None
        )
        return [nothing]
    return list(ran.gates)


def _as_they_end(waiting: Iterable[Future[Outcome]]) -> Iterator[Outcome]:
    """Yield outcomes as they come. The short wait lets an interrupt through on every system."""
    left = set(waiting)
    while left:
        done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
        for one in done:
            yield one.result()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that worktrees are removed then, too.

    And let Ctrl-C do it where SIGINT is ignored, as in the background of a shell script.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
