"""`kvpool chat`, run as a user runs it: in a terminal, and in a pipe."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.terminal import KVPOOL, environment, unmeasured

if sys.platform != "win32":
    from tests.support.pseudo_terminal import Terminal

pytestmark = [pytest.mark.transformers, pytest.mark.usefixtures("chatting")]
needs_a_terminal = pytest.mark.skipif(
    sys.platform == "win32", reason="the standard library opens no terminals here"
)


@pytest.fixture(scope="session")
def model_dir(chatting: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, which goes on talking until it is stopped."""
    directory: Path = tmp_path_factory.mktemp("models") / "endless"
    chatting.ChatModel.tiny(directory)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((directory / name).read_text(encoding="utf-8"))
        if "suppress_tokens" in settings:
            settings["suppress_tokens"].append(settings["eos_token_id"])
        settings["eos_token_id"] = None
        (directory / name).write_text(json.dumps(settings), encoding="utf-8")
    return directory


def chat(*arguments: str, lines: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KVPOOL, "chat", *arguments],
        env=environment(OMP_NUM_THREADS="1", **variables),
        input=lines,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


# -- in a pipe ---------------------------------------------------------------------------


def test_lines_in_answers_out(model_dir: Path) -> None:
    options = ("--max-new-tokens", "7", "--seed", "3", "--capacity", "600KiB")
    done = chat(str(model_dir), *options, lines="hello\n/fork branch\nmore\n\n/sessions")
    assert done.returncode == 0
    first, second, *table = done.stdout.splitlines()
    assert first != second
    assert min(len(first.split()), len(second.split())) > 1
    assert next(line.split()[:2] for line in table if "now" in line) == ["*", "branch"]
    assert done.stderr.startswith("now in branch, a fork of main: ")
    assert "\x1b" not in done.stdout + done.stderr
    assert ">" not in done.stdout
    again = chat(str(model_dir), *options, lines="hello\n")
    assert again.stdout.splitlines() == [first]


def test_the_small_model_is_the_default(small_model_directory: Path) -> None:
    done = chat(
        *("--temperature", "0", "--max-new-tokens", "8", "--system", "Answer with one word."),
        lines="What is the capital of France?\n/new other\nWhat is the capital of Italy?\n/stats\n",
        KVPOOL_CACHE=str(small_model_directory.parents[1]),
    )
    assert (done.returncode, done.stderr) == (0, "now in other: empty\n")
    first, second, *table = done.stdout.splitlines()
    assert "Paris" in first
    assert second
    reused = next(line for line in table if "tokens reused" in line)
    assert int(reused.split()[2]) > 15  # the system prompt, and how the question begins


def test_errors_make_the_exit_code_1_in_the_end() -> None:
    options = "--tiny", "--backend", "numpy", "--capacity", "8KiB"
    done = chat(*options, lines="/nothing\nhello\n/stats\n")
    assert done.returncode == 1
    unknown, full = done.stderr.splitlines()
    assert unknown == "kvpool: unknown command /nothing; /help lists all"
    assert full.startswith("kvpool: cannot allocate 32.0 KiB in the pool of 8.0 KiB; shorten")
    assert "capacity" in done.stdout


def test_options_reach_the_model(tmp_path: Path) -> None:
    options = ("--dtype", "bfloat16", "--backend", "mmap", "--max-context", "64", "--temperature")
    lines = "hello\n/stats\n/sessions\n"
    done = chat(
        str(tmp_path / "made"), "--tiny", *options, "0", "--system", "Be brief.", lines=lines
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "cache 2 x 2 x 16 bfloat16" in done.stdout
    assert "mmap" in done.stdout
    assert "32.0 KiB" in done.stdout  # one page for each head of the keys and values of each layer
    assert (tmp_path / "made" / "config.json").is_file()


def test_letters_that_the_console_does_not_have(model_dir: Path) -> None:
    plain = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = chat(str(model_dir), "--max-new-tokens", "3", lines="naïve\n/help\n", **plain)
    assert done.returncode == 0
    assert done.stdout.isascii()


def test_ctrl_c_in_a_pipe_ends_it_after_a_whole_token(model_dir: Path) -> None:
    with subprocess.Popen(
        [KVPOOL, "chat", str(model_dir), "--max-new-tokens", "4000"],
        env=unmeasured(OMP_NUM_THREADS="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("hello\nnever read\n")
        process.stdin.flush()
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert first + out == (first + out).splitlines()[0] + "\n"
    assert "Traceback" not in err


# -- in a terminal -----------------------------------------------------------------------


@needs_a_terminal
def test_answers_stream_and_ctrl_c_stops_them(model_dir: Path) -> None:
    options = ("--max-new-tokens", "4000")
    with Terminal("chat", str(model_dir), *options, interrupted=True) as terminal:
        greeting = terminal.wait_for("main>")
        assert "endless: 512 B per token" in greeting
        terminal.press("hello\r")
        so_far = terminal.wait_for(r"[a-z]{3,} [a-z]{3,} [a-z]{3,}")
        assert "answered" not in so_far  # it is not at its end
        terminal.press("\x03")
        assert "stopped" in terminal.wait_for("(?s)answered.*main>")
        terminal.press("go on\r")
        terminal.wait_for("[a-z]{3,} [a-z]{3,}")
        terminal.press("\x03")
        note = terminal.wait_for("(?s)answered.*main>")
        assert " tokens from the pool, " in note
        assert not note.startswith("0 tokens")
        terminal.press("/quit\r")
        assert terminal.leave() == 0
    assert "Traceback" not in terminal.shown


@needs_a_terminal
def test_the_line_is_edited_completed_and_remembered(model_dir: Path, tmp_path: Path) -> None:
    kept = tmp_path / "lines"
    options = ("--max-new-tokens", "3", "--history", str(kept))
    with Terminal("chat", str(model_dir), *options) as terminal:
        terminal.wait_for("main>")
        terminal.press("this is not to be said\x03")
        terminal.wait_for("main>.*\n.*main>")
        terminal.press("/sta\t")
        terminal.wait_for("/stats")
        terminal.press("\r")
        assert "0 in the pool, 1 in total" in terminal.wait_for("(?s)evictions.*main>")
        terminal.press("hello\r")
        terminal.wait_for("(?s)answered.*main>")
        terminal.press("/fork branch\r")
        terminal.wait_for("branch>")
        terminal.press("/swi\tma\t\r")  # what is typed ahead is completed as well
        terminal.wait_for("now in main")
        terminal.press("/")
        terminal.wait_for("/")
        terminal.press("\t")
        terminal.wait_for("Fork the current session")
        terminal.press("\x03")
        terminal.wait_for("main>")
        terminal.press("\x1b[A\x1b[A\x1b[A\x1b[A\r")
        assert "2 in the pool, 2 in total" in terminal.wait_for("(?s)evictions.*main>")
        terminal.press("\x04")
        assert terminal.leave() == 0
    assert "Traceback" not in terminal.shown
    assert "/switch main" in kept.read_text(encoding="utf-8")


@needs_a_terminal
def test_ctrl_c_while_the_model_is_loaded_leaves_the_cursor(model_dir: Path) -> None:
    with Terminal("chat", str(model_dir), interrupted=True) as terminal:
        terminal.wait_for("loading")
        terminal.press("\x03")
        assert terminal.leave("\x03") == 130
    assert "Traceback" not in terminal.shown
    assert terminal.raw.count("\x1b[?25h") >= terminal.raw.count("\x1b[?25l")
