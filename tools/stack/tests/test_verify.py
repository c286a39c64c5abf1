"""Gates run for real, in worktrees of a scratch repository."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import tempfile
import time
from pathlib import Path

import pytest

from milestones import environment
from milestones.gaterun import count_tests
from milestones.records import GATES, Record, parse

from .project import part
from .scratch import Scratch
from .test_status import prove


def records(scratch: Scratch, branch: str) -> list[Record]:
    done = scratch.repository.attempt("notes", "--ref", "gates", "show", branch)
    return [parse(line) for line in done.stdout.splitlines()]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that worktrees are made in."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def test_every_milestone_is_proved_and_nothing_is_left(scratch: Scratch, temporary: Path) -> None:
    said = scratch.run("verify", "--all")
    assert said.exit_code == 0, said.text
    assert set(scratch.states().values()) == {"ready"}
    assert list(temporary.iterdir()) == []
    assert len(scratch.repository.worktrees()) == 1
    assert scratch.repository.head() == "refs/heads/main"


def test_a_record_says_what_ran_where(scratch: Scratch) -> None:
    scratch.run("verify", "demo/2")
    (record,) = records(scratch, "feat/demo-2")
    tree = scratch.repository.tree("feat/demo-2")
    assert record.milestone == "demo/2"
    assert record.commit == scratch.id("feat/demo-2")
    assert record.keys == environment.keys(scratch.repository, tree)
    assert record.green
    assert [one.gate for one in record.gates] == list(GATES)
    counts = {one.gate: one.tests for one in record.gates}
    expected = {"passed": 3, "failed": 0, "deselected": 0}
    assert counts == dict.fromkeys(GATES) | {"test": expected, "min_python": expected}
    pythons = {one.gate: one.python for one in record.gates}
    assert pythons == dict.fromkeys(GATES, "") | {"test": "3.13.0"}
    assert record.installed == {"pytest": "9.2.0"}
    assert record.tools["git"] in scratch.git("version")
    assert "3.11" in record.interpreters
    log = scratch.repository.directory(f"stack/logs/{record.log}.log")
    assert hashlib.sha256(log.read_bytes()).hexdigest() == record.log
    assert "=== gate min_python" in log.read_text(encoding="utf-8")


def test_the_definitions_and_the_locks_are_part_of_what_counts(scratch: Scratch) -> None:
    git = scratch.repository
    for name, changes in {
        "scripts/ci-local.sh": (True, False),
        "scripts/gates/runner.py": (True, False),
        "noxfile.py": (True, False),
        "requirements/nox.txt": (False, True),
        "src/part0.sh": (False, False),
    }.items():
        before = git.tree("HEAD")
        path = scratch.root / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        scratch.commit("Change", {name: f"{text}\n"})
        after = git.tree("HEAD")
        assert (
            environment.definitions(git, before) != environment.definitions(git, after),
            environment.locks(git, before) != environment.locks(git, after),
        ) == changes, name


def test_a_broken_milestone_in_the_middle_is_found(scratch: Scratch) -> None:
    """Its tip, with the others on top, is whole; by itself it is not."""
    scratch.git("switch", "--quiet", "feat/demo-1")
    broken = part(1, answer=2, expected=1)
    scratch.git("checkout", "--quiet", "-b", "repaired", "feat/demo-3")
    scratch.git("branch", "--quiet", "-D", "feat/demo-2", "feat/demo-3")
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.grow(2, part(2) | broken)
    scratch.grow(3, part(3) | part(1))
    said = scratch.run("verify", "--all")
    assert said.exit_code == 1
    assert "demo/2  4/6 gates passed, test failed, min_python failed" in said.text
    assert scratch.states() == {"demo/1": "ready", "demo/2": "draft", "demo/3": "blocked"}
    (record,) = records(scratch, "feat/demo-2")
    assert record.failed == ("test", "min_python")
    assert record.exit_code == 1
    counts = {one.gate: one.tests for one in record.gates}["test"]
    assert counts == {"failed": 1, "passed": 2, "deselected": 0}
    assert scratch.status()["demo/2"]["todo"] == "repair test, min_python, then verify demo/2"


def test_reasons_name_no_path_of_this_machine(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("Untidy", {"src/part1.sh": "answer1=1  \n"})
    scratch.run("verify")
    (record,) = records(scratch, "HEAD")
    assert {one.gate: one.reason for one in record.gates if not one.passed} == {
        "format": ".: not format"
    }


def test_a_milestone_is_held_to_its_own_gates(scratch: Scratch) -> None:
    script = (scratch.root / "scripts/ci-local.sh").read_text(encoding="utf-8")
    scratch.commit("Stricter", {"scripts/ci-local.sh": script.replace("'eval'", "'answer'")})
    assert scratch.run("verify", "demo/1").exit_code == 0


def test_a_merged_milestone_is_found_by_its_trailer(scratch: Scratch) -> None:
    squash = scratch.squash("feat/demo-1", "demo/1")
    scratch.commit("Broken since", {"src/part1.sh": "eval\n"})
    assert scratch.run("verify", "demo/1").exit_code == 0
    assert records(scratch, squash)[0].green


def test_quick_runs_three_and_proves_nothing(scratch: Scratch) -> None:
    said = scratch.run("verify", "demo/1", "--quick")
    assert said.exit_code == 0
    assert "3/6 gates passed, quick, so this proves nothing" in said.text
    (record,) = records(scratch, "feat/demo-1")
    assert record.scope == "quick"
    assert not record.green
    first = scratch.status()["demo/1"]
    assert (first["state"], first["evidence"]["text"]) == ("draft", "3/6 (quick)")
    assert scratch.run("land", "demo/1").exit_code == 1


def test_a_record_is_used_again_until_something_changes(scratch: Scratch) -> None:
    scratch.run("verify", "demo/1")
    assert "recorded before" in scratch.run("verify", "demo/1").text
    assert "recorded before" in scratch.run("verify", "demo/1", "--quick").text
    assert len(records(scratch, "feat/demo-1")) == 1
    assert "recorded before" not in scratch.run("verify", "demo/1", "--again").text
    assert len(records(scratch, "feat/demo-1")) == 2
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("More", {"src/part1.sh": "answer1=01\n"})
    assert "recorded before" not in scratch.run("verify", "demo/1").text


def test_a_forged_record_makes_no_run_needless(scratch: Scratch) -> None:
    scratch.run("verify", "demo/1")
    tip = scratch.id("feat/demo-1")
    note = scratch.git("notes", "--ref", "gates", "show", tip)
    forged = note.replace('"milestone":"demo/1"', '"milestone":"demo/2"')
    other = scratch.id("feat/demo-2")
    scratch.git("notes", "--ref", "gates", "add", "--message", forged, other)
    assert "recorded before" not in scratch.run("verify", "demo/2").text


def test_excluded_tests_are_left_out_and_recorded(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    end, test = 'next = "The part 2."\n', "tests/part1.sh::all"
    exclusion = f'\n[[milestone.exclusion]]\ntest = "{test}"\nreason = "known"\nexpires = {{}}\n'
    scratch.change_manifest(end, end + exclusion.format("2999-01-01"))
    assert scratch.run("verify", "demo/1").exit_code == 0
    (record,) = records(scratch, "HEAD")
    assert record.excluded == []  # what was never committed leaves nothing out
    scratch.commit("Broken", part(1, answer=2, expected=1))
    assert scratch.run("verify", "demo/1").exit_code == 0
    (record,) = records(scratch, "HEAD")
    assert [one.test for one in record.excluded] == [test]
    counts = {one.gate: one.tests for one in record.gates}["test"]
    assert counts == {"failed": 0, "passed": 1, "deselected": 1}
    assert scratch.status()["demo/1"]["evidence"]["text"] == "6/6 (1 left out)"
    scratch.change_manifest(exclusion.format("2999-01-01"), "")
    assert scratch.status()["demo/1"]["why"] == f"left out, but not by the manifest: {test}"
    scratch.git("checkout", "--quiet", "--", ".")
    scratch.change_manifest("2999-01-01", "2020-01-01")
    scratch.commit("Expired")
    assert scratch.run("verify", "demo/1").exit_code == 1


def test_what_is_not_committed_is_not_verified(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.write({"src/part1.sh": "eval\n", "src/new.sh": "eval\n"})
    said = scratch.run("verify")
    assert said.exit_code == 0
    assert "not committed, so not verified: src/part1.sh" in said.text
    assert "not committed" not in scratch.run("verify", "demo/2", "--quick").text


def test_gates_see_nothing_of_the_shell_that_called(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable install, a virtual environment, options of pytest: each a false green."""
    leaks = {
        "PYTHONPATH": "/elsewhere",
        "PYTEST_ADDOPTS": "-k nothing",
        "VIRTUAL_ENV": "/elsewhere",
        "KVPOOL_BACKEND": "mmap",
        "NOXSESSION": "lint",
        "GIT_INDEX_FILE": "/elsewhere",
    }
    environ = scratch.root / ".venv/bin"
    environ.mkdir(parents=True)
    (scratch.root / ".venv/pyvenv.cfg").touch()
    path = f"{environ}{os.pathsep}{os.environ['PATH']}"
    seen = environment.scrubbed(os.environ | leaks | {"PATH": path, "HTTPS_PROXY": "p"})
    assert not set(leaks) & set(seen)
    assert str(environ) not in seen["PATH"]
    assert seen["HTTPS_PROXY"] == "p"
    assert "HOME" in seen

    for name, value in leaks.items():
        if not name.startswith("GIT"):
            monkeypatch.setenv(name, value)
    names = "|".join(leaks)
    script = (scratch.root / "scripts/ci-local.sh").read_text(encoding="utf-8")
    probe = f'gate_lint() {{ ! env | grep -E "^({names})="; }}\nstatus=0'
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("Probe", {"scripts/ci-local.sh": script.replace("status=0", probe, 1)})
    assert scratch.run("verify").exit_code == 0


def with_script(scratch: Scratch, old: str, new: str) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    script = (scratch.root / "scripts/ci-local.sh").read_text(encoding="utf-8")
    assert script.count(old) == 1
    scratch.commit("Other gates", {"scripts/ci-local.sh": script.replace(old, new)})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("set -u\n", "echo no network; exit 3\n", "ended with 3 and left no results"),
        ('exit "$status"', "exit 1", "ended with 1, which its results contradict"),
        ('printf \'{"format":1', "printf 'nothing", "left no results"),
        ("passed=true reason=", "passed='\"skipped\"' reason=", "left no results"),
    ],
)
def test_gates_that_do_not_say_how_they_ended_are_no_evidence(
    scratch: Scratch, old: str, new: str, message: str
) -> None:
    with_script(scratch, old, new)
    said = scratch.run("verify", "demo/1", columns=200)
    assert said.exit_code == 1
    assert "demo/1  not verified: " in said.text
    assert message in said.text
    assert records(scratch, "HEAD") == []
    log = Path(said.text.partition("The whole log: ")[2].split()[0])
    assert log.exists()


def test_a_commit_without_gates_is_not_verified(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.git("rm", "--quiet", "scripts/ci-local.sh")
    scratch.commit("No gates")
    said = scratch.run("verify")
    assert said.exit_code == 1
    assert "has no scripts/ci-local.sh: its gates cannot be run" in said.text


def test_a_record_says_what_runs_each_gate_alone_and_what_it_is(scratch: Scratch) -> None:
    scratch.run("verify", "demo/1")
    (record,) = records(scratch, "feat/demo-1")
    assert {one.command for one in record.gates} == {f"make {gate}" for gate in GATES}
    assert record.gates[1].notes == "What part of it is test."
    scratch.run("render", "--refresh")
    page = (scratch.root / "docs/stack/demo/1.md").read_text(encoding="utf-8")
    assert "| `make test` | What part of it is test. |" in page


def test_what_the_machine_lacks_is_not_held_against_the_code(scratch: Scratch) -> None:
    lacks = "Python 3.99 is needed and no interpreter of that version runs here"
    scratch.git("switch", "--quiet", "feat/demo-1")
    script = (scratch.root / "scripts/ci-local.sh").read_text(encoding="utf-8")
    mark = scratch.root.parent / "python3.99"
    body = f"[ -e {mark} ] || {{ echo 'nox > {lacks}.'; false; }}"
    new = re.sub(r"gate_lint\(\) .*", f"gate_lint() {{ {body}; }}", script)
    scratch.commit("A gate that needs more", {"scripts/ci-local.sh": new})
    assert scratch.run("verify", "demo/1").exit_code == 1
    one = scratch.status()["demo/1"]
    assert one["state"] == "draft"
    assert one["why"] == f"environment, not code: lint: {lacks}"
    assert one["evidence"]["text"] == "5/6 (lint: environment, not code)"
    scratch.run("render", "--refresh")
    page = (scratch.root / "docs/stack/demo/1.md").read_text(encoding="utf-8")
    assert f"| `lint` | **environment, not code**: {lacks} |" in page

    # Nothing but the machine has to change for the gate to run again, and only that gate.
    mark.touch()
    assert scratch.run("verify", "demo/1").exit_code == 0
    _, second = sorted(records(scratch, "HEAD"), key=lambda record: record.green)
    assert [gate.gate for gate in second.gates if gate.reused is None] == ["lint"]

    # A machine that lacks something says nothing against what was proved on another one.
    mark.unlink()
    assert scratch.run("verify", "demo/1", "--again").exit_code == 1
    assert scratch.status()["demo/1"]["evidence"]["verdict"] == "green"


def test_five_gates_are_not_six(scratch: Scratch) -> None:
    with_script(
        scratch, "(build test lint format docs min_python)", "(build test lint format docs)"
    )
    assert scratch.run("verify").exit_code == 1
    (record,) = records(scratch, "HEAD")
    assert not record.green
    assert scratch.status()["demo/1"]["evidence"]["text"] == "5/6"


def test_gates_that_change_the_tree_have_not_passed(scratch: Scratch) -> None:
    with_script(scratch, "gate_docs() { ", "gate_docs() { echo >> README.md; touch x.made; ")
    assert scratch.run("verify").exit_code == 1
    (record,) = records(scratch, "HEAD")
    assert record.passed == ()
    assert record.gates[0].reason == "the gates changed files of the tree: README.md"


def test_milestones_run_at_once_if_asked_to(scratch: Scratch) -> None:
    """Each waits until the other is there, too."""
    meet = scratch.root.parent / "meet"
    meet.mkdir()
    wait = f"""
touch {meet}/$$
for _ in $(seq 100); do
    [ "$(ls {meet} | wc -l)" -ge 2 ] && break
    sleep 0.05
done
[ "$(ls {meet} | wc -l)" -ge 2 ] || exit 1
"""
    for number in (1, 2):
        scratch.git("switch", "--quiet", f"feat/demo-{number}")
        script = (scratch.root / "scripts/ci-local.sh").read_text(encoding="utf-8")
        script = script.replace("\nstatus=0", f"{wait}\nstatus=0")
        scratch.commit("Meet", {"scripts/ci-local.sh": script})
    said = scratch.run("verify", "demo/1", "demo/2", "--jobs", "2")
    assert said.exit_code == 0, said.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything_and_removes_the_worktrees(
    scratch: Scratch, temporary: Path, number: signal.Signals
) -> None:
    beacon = scratch.root.parent / "beacon"
    with_script(scratch, "gate_lint() { ", f"gate_lint() {{ sleep 300 & echo $! > {beacon}; wait; ")
    process = scratch.start("verify", "demo/1", "demo/2")
    while not (beacon.exists() and beacon.read_text(encoding="utf-8").strip()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted" in output
    assert list(temporary.iterdir()) == []
    assert len(scratch.repository.worktrees()) == 1
    assert records(scratch, "feat/demo-1") == []
    assert not alive(int(beacon.read_text(encoding="utf-8")))


def alive(pid: int) -> bool:
    """Return whether a process is there and no zombie, after a moment to go."""
    for _ in range(3000):
        status = Path(f"/proc/{pid}/stat")
        try:
            if status.exists() and status.read_text(encoding="utf-8").split()[2] == "Z":
                return False
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.02)
    return True


def test_what_a_killed_run_left_behind_is_swept_up(scratch: Scratch, temporary: Path) -> None:
    left = temporary / "stack-verify-999999999-x"
    mine = temporary / f"stack-verify-{os.getpid()}-x"
    for path in (left, mine):
        scratch.git("worktree", "add", "--quiet", "--detach", str(path / "tree"), "main")
    scratch.run("verify", "demo/1")
    assert not left.exists()
    assert mine.exists()
    assert len(scratch.repository.worktrees()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo/9",), "there is no milestone 'demo/9'; there are demo, demo/1, demo/2, demo/3"),
        (("--all", "demo/1"), "either --all or names, not both: demo/1"),
        ((), "main is the branch of no milestone"),
    ],
)
def test_a_wrong_name_is_an_error_and_runs_nothing(
    scratch: Scratch, arguments: tuple[str, ...], message: str
) -> None:
    said = scratch.run("verify", *arguments)
    assert (said.exit_code, said.text) == (1, message)


def test_a_planned_milestone_cannot_be_verified(scratch: Scratch) -> None:
    scratch.git("branch", "--quiet", "-D", "feat/demo-3")
    said = scratch.run("verify", "demo/3")
    assert said.text.startswith("demo/3 is planned: there is neither a branch feat/demo-3 nor")


def test_counts_are_the_sum_of_the_runs_of_pytest_in_each_gate() -> None:
    log = """\
ci-local: making .venv-ci
12 passed in 0.1s
=== gate test
3 passed in 0.50s
\x1b[32m=== \x1b[1m2 failed, 820 passed, 48 skipped, 1 warning\x1b[0m in 62.31s (0:01:02) ===\x1b[0m
=== gate lint
All checks passed!
=== gate docs
120 passed in 7.25s
"""
    assert count_tests(log) == {
        "test": {"failed": 2, "passed": 823, "skipped": 48, "warning": 1},
        "docs": {"passed": 120},
    }


@pytest.mark.parametrize(
    "line",
    ["version_info = 3.12.1", "version_info = 3.12.1.final.0", "home = /x\nversion = 3.12.1"],
    ids=["uv", "virtualenv", "venv"],
)
def test_the_python_of_a_gate_is_that_of_its_environment(tmp_path: Path, line: str) -> None:
    path = tmp_path / ".nox/lint/pyvenv.cfg"
    path.parent.mkdir(parents=True)
    path.write_text(f"implementation = CPython\n{line}\nuv = 0.13.9\n", encoding="utf-8")
    assert environment.python_of(tmp_path, "lint") == "3.12.1"
    assert environment.python_of(tmp_path, "docs") == ""


def test_the_tools_of_the_environments_are_found(tmp_path: Path) -> None:
    for name in (
        ".venv-ci/lib/python3.11/site-packages/nox-2026.1.dist-info",
        ".nox/lint/lib/python3.11/site-packages/ruff-0.17.6.dist-info",
        ".nox/lint/lib/python3.11/site-packages/idna-3.1.dist-info",
        ".nox/test/lib/python3.13/site-packages/numpy-2.4.0.dist-info",
        ".nox/min/lib/python3.11/site-packages/numpy-2.1.0.dist-info",
        ".nox/win/Lib/site-packages/Sphinx-9.0.dist-info",
        "elsewhere/lib/python3.11/site-packages/mypy-2.0.dist-info",
    ):
        (tmp_path / name).mkdir(parents=True)
    assert environment.installed(tmp_path) == {
        "nox": "2026.1",
        "numpy": "2.1.0, 2.4.0",
        "ruff": "0.17.6",
        "sphinx": "9.0",
    }


def test_the_json_of_the_status_has_the_record(scratch: Scratch) -> None:
    scratch.run("verify", "demo/1")
    record = scratch.status()["demo/1"]["evidence"]["record"]
    assert parse(json.dumps(record)) == records(scratch, "feat/demo-1")[0]


VACUOUS = r"""#!/usr/bin/env bash
printf '{"gates":[' >"$KVPOOL_GATES_JSON"
separator=
for gate in build test lint format docs min_python; do
    echo "=== gate $gate"
    printf '%s{"gate":"%s","passed":true,"seconds":0.1}' "$separator" $gate >>"$KVPOOL_GATES_JSON"
    separator=,
done
printf ']}' >>"$KVPOOL_GATES_JSON"
"""


def test_a_milestone_that_weakens_its_gates_is_held_to_those_of_the_trunk(
    scratch: Scratch,
) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("Weaker", {"tests/part1.sh": "false\n", "scripts/ci-local.sh": VACUOUS})
    assert scratch.run("verify", "demo/1").exit_code == 0
    first = scratch.status()["demo/1"]
    assert first["evidence"]["verdict"] == "green"
    assert first["state"] == "draft"
    assert first["why"].endswith("those of main do not pass on it: test, min_python")
    note = "its gates are defined otherwise than those of main: scripts/ci-local.sh; "
    assert note + "of the gates of main, 4/6 pass on it" in scratch.run("status", columns=200).text
    assert "recorded before" in scratch.run("verify", "demo/1").text
    why = 'explanation = "The test of part 1 is of another kind."\nscope = ["The part 1"]'
    scratch.change_manifest('scope = ["The part 1"]', why)
    assert scratch.states()["demo/1"] == "ready"
    assert note in scratch.run("land", "demo/1").text
    scratch.run("render", "--refresh")
    page = (scratch.root / "docs/stack/demo/1.md").read_text(encoding="utf-8")
    assert note in page


def test_a_record_from_before_the_gates_changed_proves_nothing(scratch: Scratch) -> None:
    scratch.git("switch", "--quiet", "feat/demo-1")
    scratch.commit("Other gates", {"noxfile.py": "# other\n"})
    prove(scratch, 1)
    assert scratch.status()["demo/1"]["why"] == "it changes gates, and those of main have not run"
    assert scratch.run("verify", "demo/1").exit_code == 0
    assert scratch.states()["demo/1"] == "ready"
