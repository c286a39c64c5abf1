"""What a shell asks of the command: another way to start it, completion, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.called import run
from tests.support.terminal import KVPOOL, environment

AZURE = str(Path(__file__).parents[1] / "data/azure_small.csv")


def completed(words: str) -> list[str]:
    """Return what bash is told to offer for the last word."""
    count = len(words.split(" "))
    told = {"_KVPOOL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count - 1)}
    done = run(**told)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_installed_script_is_what_a_shell_asks() -> None:
    told = {"_KVPOOL_COMPLETE": "complete_bash", "COMP_WORDS": "kvpool rep", "COMP_CWORD": "1"}
    done = subprocess.run(
        [KVPOOL], env=environment(**told), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == completed("kvpool rep") == ["replay"]


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvpool", "--version"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == run("--version").stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("kvpool receipts ver", ["verify"]),
        ("kvpool demo --backend m", ["mmap"]),
        ("kvpool replay t.csv --policy hit", ["hit-density"]),
        ("kvpool size t.csv --policy hit", ["hit-density"]),
        ("kvpool replay t.csv --packing l", ["layer"]),
    ],
)
def test_completion(words: str, offered: list[str]) -> None:
    assert completed(words) == offered


@pytest.mark.parametrize("columns", ["40", "80"])
@pytest.mark.parametrize(
    "words", ["kvpool ", "kvpool receipts ", *(f"kvpool {name} --" for name in ("chat", "serve"))]
)
def test_fish_offers_names_with_one_whole_line_of_text(words: str, columns: str) -> None:
    """Fish and zsh take a second line of a text for another word; typer cuts texts of commands."""
    told = {"_KVPOOL_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = run(**told, _TYPER_COMPLETE_ARGS=words, COLUMNS=columns)
    assert done.returncode == 0
    offered = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(offered) > 5
    for name, text in offered:
        assert name.startswith("--" if words.endswith("--") else tuple("bcdfgkmrstv"))
        assert text.endswith(".")
        assert not text.endswith("..")


def test_the_script_for_a_shell_is_shown() -> None:
    script = run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.returncode == 0
    assert "_KVPOOL_COMPLETE=complete_bash" in script.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("demo", "surplus"),
        ("replay",),
        ("demo", "--seconds", "soon"),
        ("demo", "--seconds", "nan"),
        ("map", "--capacity", "much"),
        ("replay", AZURE, "--backend", "nowhere"),
        ("replay", AZURE, "--dtype", "float8"),
        ("receipts", "show", os.devnull, "--since", "yesterday"),
    ],
    ids=" ".join,
)
def test_what_is_not_accepted_has_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_a_library_without_the_command_line() -> None:
    """A program that embeds the library pays for neither typer nor rich, nor needs them."""
    code = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = None\n"
        "import kvpool\n"
        "with kvpool.KVCacheManager(1 << 20, 'numpy', kvpool.KVLayout(1, 1, 8)) as manager:\n"
        "    manager.create_cache_entry(kvpool.CacheKey('chat', 1), 16)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("package", ["rich", "typer"])
def test_a_command_without_its_packages_says_what_to_install(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None\nfrom kvpool.cli._main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"kvpool: the command needs the package {package}: pip install rich typer\n"
    )
