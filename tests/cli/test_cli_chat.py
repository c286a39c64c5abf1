"""`kvpool chat` as far as it goes without a model."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

import pytest

from kvpool.cli._chat.commands import COMMANDS
from kvpool.cli._chat.stopping import StopKey
from kvpool.cli._chat.wrapping import WordWrap
from tests.support.terminal import run


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A directory that looks as if there were a model in it."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    return tmp_path


def test_the_help_names_all_options() -> None:
    done = run("chat", "--help", TERM="dumb")
    assert done.returncode == 0
    for option in (
        *("--tiny", "--capacity", "--backend", "--dtype", "--max-context", "--max-new-tokens"),
        *("--temperature", "--seed", "--system", "--history"),
    ):
        assert option in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert re.search(r"chat +Talk with a local model", run("--help", TERM="dumb").stdout)


def test_without_a_model_it_says_what_to_give() -> None:
    done = run("chat")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "kvpool: which model? Give MODEL_DIR, or --tiny for one with random weights\n"
    )


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    for options in ((), ("--dtype", "float16")):
        done = run("chat", str(tmp_path / "nowhere"), *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"kvpool: there is no directory {tmp_path / 'nowhere'}\n"


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    for options in ((), ("--tiny",)):
        done = run("chat", str(file), *options)
        assert (done.returncode, done.stderr) == (2, f"kvpool: there is no directory {file}\n")


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    done = run("chat", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"kvpool: {tmp_path} holds no model: there is no config.json in it\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--capacity", "much"), "is no size"),
        (("--dtype", "float8"), "'float8' is none of float32, float16, bfloat16"),
        (("--max-context", "1"), "'--max-context'"),
        (("--max-new-tokens", "0"), "'--max-new-tokens'"),
        (("--temperature", "-1"), "'--temperature'"),
        (("--temperature", "hot"), "'--temperature'"),
        (("--seed", "-3"), "'--seed'"),
        (("--loud",), "No such option"),
    ],
)
def test_options_that_are_wrong(model_dir: Path, options: tuple[str, ...], reason: str) -> None:
    done = run("chat", str(model_dir), *options, TERM="dumb")
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in " ".join(done.stderr.replace("│", " ").split())


def test_a_backend_that_is_not_there(model_dir: Path) -> None:
    done = run("chat", str(model_dir), "--backend", "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kvpool: unknown backend 'nowhere'")


@pytest.mark.parametrize("options", [(), ("--tiny",)])
def test_without_torch_it_says_what_to_install(
    model_dir: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n", encoding="utf-8")
    done = run("chat", str(model_dir), *options, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        'kvpool: chat needs what is not installed: install "kvpool[chat]" (no torch here)\n'
    )


def test_commands_are_found_by_their_names() -> None:
    assert all(name == command.name for name, command in COMMANDS.items())
    assert all(command.takes_name or not command.knows_name for command in COMMANDS.values())
    assert COMMANDS["/fork"].usage == "/fork NAME"
    assert COMMANDS["/stats"].usage == "/stats"


def wrapped(width: int, *pieces: str) -> list[str]:
    """Return the lines that a terminal shows in the end."""
    wrap = WordWrap(width)
    written = "".join(map(wrap.add, pieces))
    shown = ""
    for part in re.split(r"(\x1b\[\d+D\x1b\[K)", written):
        back = re.match(r"\x1b\[(\d+)D", part)
        shown = shown[: -int(back[1])] if back else shown + part
    return shown.split("\n")


def test_words_are_not_broken() -> None:
    lines = wrapped(20, "some words th", "at are longe", "r than one line of a screen")
    assert [line.rstrip() for line in lines] == [
        "some words that are",
        "longer than one",
        "line of a screen",
    ]


def test_a_word_longer_than_a_line_is() -> None:
    assert wrapped(6, "a verylongword", "\n", "b") == ["a ", "veryl", "ongwo", "rd", "b"]


def test_wide_letters_have_two_columns() -> None:
    assert wrapped(6, "漢字漢字漢") == ["漢字", "漢字", "漢"]


def test_a_space_at_the_edge_ends_the_line() -> None:
    assert wrapped(6, "abcde fghij k") == ["abcde", "fghij", "k"]


def test_the_stop_key_is_only_noted() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopKey() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.pressed
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_gets_no_keys() -> None:
    def work() -> None:
        with StopKey():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
