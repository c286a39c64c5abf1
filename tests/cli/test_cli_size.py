"""`kvpool size`, run as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kvpool.replay import HASH_BLOCK_TOKENS, conversations
from tests.support.called import run
from tests.support.terminal import KVPOOL, in_terminal, unmeasured

DATA = Path(__file__).parents[1] / "data"
AZURE = str(DATA / "azure_small.csv")
MOONCAKE = str(DATA / "mooncake_small.jsonl")
CONFIG = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trace of conversations of several turns."""
    file = tmp_path_factory.mktemp("traces") / "talks.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for one in conversations(200):
            row = {
                "timestamp": round(one.arrival * 1000),
                "input_length": one.prompt_tokens,
                "output_length": one.generated_tokens,
                "hash_ids": list(one.hash_blocks),
            }
            lines.write(f"{json.dumps(row)}\n")
    return str(file)


def figures(*arguments: str) -> Any:
    done = run("size", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def refused(*arguments: str, code: int = 1) -> str:
    done = run("size", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_json(talks: str) -> None:
    shown = figures(talks, "--layout", "32x8x128", "--policy", "lfu")
    assert (shown["trace"], shown["format"], shown["skipped_lines"]) == (talks, "mooncake", 0)
    assert (shown["requests"], shown["block_tokens"]) == (200, HASH_BLOCK_TOKENS)
    assert shown["layout"] == "32 x 8 x 128 float16"
    assert shown["bytes_per_block"] == HASH_BLOCK_TOKENS * 131_072
    assert list(shown["policies"]) == ["lru", "lfu"]
    assert shown["infinite"]["hit_blocks"] == shown["block_references"] - shown["blocks"]


def test_the_tables_and_the_answer(talks: str) -> None:
    options = (talks, "--layout", "640x8x128", "--policy", "lfu", "--points", "5")
    done = run("size", *options)
    assert (done.returncode, done.stderr) == (0, "")
    shown = figures(*options)
    need = shown["policies"]["lru"]["needs"][0]
    words = " ".join(done.stdout.split())
    assert f"LRU needs {need['bytes'] / 2**30:,.1f} GiB for 50%" in words
    assert f"An infinite pool would reuse {shown['infinite']['hit_blocks']:,} of" in words
    for name in ("lru", "lfu", "clairvoyant"):
        assert re.search(rf"^ *{name}( +[\d.]+%){{5}} *$", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_csv(talks: str) -> None:
    done = run("size", talks, "--csv", "--policy", "lfu", "--points", "4")
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["policy"] for row in rows] == ["lru"] * 4 + ["lfu"] * 4 + ["clairvoyant"] * 4
    shown = figures(talks, "--policy", "lfu", "--points", "4")["curves"]
    assert [float(row["hit_ratio"]) for row in rows] == [one["hit_ratio"] for one in shown]
    assert rows[0]["bytes"] == ""


def test_a_report_is_written(talks: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    done = run("size", talks, "--policy", "lfu", "--points", "2", "--report", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert str(file) in done.stdout
    assert "How big a pool talks.jsonl needs" in file.read_text(encoding="utf-8")


def test_a_sample_states_its_error(talks: str) -> None:
    options = (talks, "--policy", "lfu", "--points", "5", "--sample", "0.5", "--seeds", "4")
    shown = figures(*options)
    assert (shown["sample_rate"], shown["samples"]) == (0.5, 4)
    assert shown["policies"]["lru"]["error"] == 0
    assert shown["policies"]["lfu"]["error"] > 0
    done = run("size", *options)
    assert "With --layout or --model, sizes are in bytes." in done.stdout
    error = shown["policies"]["lfu"]["error"]
    assert re.search(rf"^ *lfu .* {error:.2%} *$", done.stdout, re.MULTILINE)
    assert re.search(r"^ *lru .* exact *$", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", ["config.json", "."])
def test_the_layout_of_a_model(talks: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    shown = figures(talks, "--model", str(tmp_path / name), "--points", "2", "--policy", "lru")
    assert shown["layout"] == "32 x 8 x 128 bfloat16"
    shown = figures(
        talks,
        *("--model", str(tmp_path / name), "--points", "2", "--policy", "lru", "--dtype", "int8"),
    )
    assert shown["layout"] == "32 x 8 x 128 int8"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not the config.json of a model"),
        ("[1]", "it is not an object"),
        ("{}", "the configuration has no number num_hidden_layers"),
        (json.dumps(CONFIG | {"num_hidden_layers": "x"}), "has no number num_hidden_layers: 'x'"),
        (json.dumps(CONFIG | {"num_hidden_layers": -1}), "num_hidden_layers is -1; at least 1"),
        (json.dumps(CONFIG | {"num_hidden_layers": 10**12}), "more than any model has"),
        (json.dumps(CONFIG | {"num_key_value_heads": "x"}), "kv_heads"),
        (json.dumps(CONFIG | {"num_attention_heads": 0, "head_dim": None}), "at least 1"),
        (json.dumps(CONFIG | {"layer_types": 5}), "is not the config.json of a model"),
        (json.dumps(CONFIG | {"torch_dtype": "float3"}), "unsupported dtype 'float3'"),
        (json.dumps(CONFIG | {"kv_lora_rank": 512}), "a model with kv_lora_rank keeps more"),
        (json.dumps(CONFIG | {"attn_layer_period": 8}), "a model with attn_layer_period keeps"),
        ("[" * 10**6, "is not the config.json of a model"),
        (" " * (2 << 20), "it is too long"),
    ],
    ids=lambda text: text[:30],
)
def test_a_bad_model_is_refused(talks: str, tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    error = refused(talks, "--model", str(file))
    assert str(file) in error
    assert reason in error
    assert error.count("\n") == 1


def test_a_wrong_dtype_is_not_blamed_on_the_model(talks: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG), encoding="utf-8")
    error = refused(talks, "--model", str(file), "--dtype", "x", code=2)
    assert error.startswith("kvpool: unsupported dtype 'x'; use ")
    assert "config.json" not in error


def test_a_model_that_is_not_there(talks: str, tmp_path: Path) -> None:
    error = refused(talks, "--model", str(tmp_path / "no.json"))
    assert error == f"kvpool: cannot read {tmp_path / 'no.json'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--layout", "32x8"), "invalid layout '32x8'"),
        (("--layout", "32x8x128x2"), "expected LAYERSxHEADSxDIM"),
        (("--layout", "1x1x1", "--model", "x"), "--layout or --model, not both"),
        (("--dtype", "int8"), "--dtype needs --layout or --model"),
        (("--json", "--csv"), "--json or --csv, not both"),
        (("--points", "1"), "--points"),
        (("--sample", "2"), "--sample"),
        (("--sample", "0"), "--sample must be above 0"),
    ],
    ids=str,
)
def test_a_wrong_command_line(options: tuple[str, ...], reason: str) -> None:
    assert reason in " ".join(refused(MOONCAKE, *options, code=2).replace("│", "").split())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--layout", "0x8x128"), "layers"),
        (("--layout", "2x8x128", "--dtype", "x"), "unsupported dtype 'x'"),
        (("--policy", "mru"), "mru"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(options: tuple[str, ...], reason: str) -> None:
    error = refused(MOONCAKE, *options, code=2)
    assert reason in error
    assert error.count("\n") == 1


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    error = refused(MOONCAKE, "--report", str(tmp_path / "no" / "report.html"))
    assert error.startswith(f"kvpool: cannot write {tmp_path / 'no' / 'report.html'}: ")


def test_a_trace_without_ids_is_refused() -> None:
    error = refused(AZURE)
    assert AZURE in error
    assert "no ids of blocks" in error
    assert "azure" in error


def test_a_broken_line_is_an_error_with_its_place(talks: str, tmp_path: Path) -> None:
    lines = Path(talks).read_text(encoding="utf-8").splitlines(keepends=True)
    lines[99] = lines[99].replace('"hash_ids": [', '"hash_ids": ["x", ')
    file = tmp_path / "broken.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    assert refused(str(file)).startswith(f"kvpool: {file}:100: hash_ids contains 'x'")
    shown = figures(str(file), "--skip-bad", "--policy", "lru")
    assert (shown["requests"], shown["skipped_lines"]) == (199, 1)
    done = run("size", str(file), "--skip-bad", "--policy", "lru")
    assert "Skipped 1 line." in done.stdout
    assert f"Skipped first: {file}:100: hash_ids" in done.stdout


def test_only_the_first_requests(talks: str) -> None:
    assert figures(talks, "--max-requests", "50", "--policy", "lru")["requests"] == 50


def test_a_trace_without_reuse(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    row = {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}
    file.write_text(json.dumps(row), encoding="utf-8")
    done = run("size", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "No prompt begins like an earlier one" in done.stdout


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals")
def test_a_terminal_shows_a_bar_and_then_the_tables(talks: str) -> None:
    with in_terminal("size", talks, "--policy", "lfu") as (process, chunks):
        shown = "".join(chunks)
    assert process.returncode == 0
    assert "simulate" in shown
    assert "100%" in shown
    assert "clairvoyant" in shown


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    pipe = tmp_path / "trace.jsonl"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [KVPOOL, "size", str(pipe)],
        env=unmeasured(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        row = '{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}\n'
        with pipe.open("w", encoding="utf-8") as lines:  # it is open when the command reads
            lines.write(row * 200)
            lines.flush()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "kvpool: interrupted\n")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGKILL", -9)])
def test_no_process_of_a_simulation_outlives_the_command(talks: str, name: str, code: int) -> None:
    options = ("--points", "400", "--workers", "2")
    with in_terminal("size", talks, *options, interrupted=True) as (process, chunks):
        shown = ""
        while "simulate" not in shown:
            shown += next(chunks)
        process.send_signal(getattr(signal, name))
        shown = "".join(chunks)  # until no process has the terminal
    assert process.returncode == code
    assert "Traceback" not in shown
    if name == "SIGTERM":  # nothing is left for the tracker of multiprocessing to clean up
        assert "resource_tracker" not in shown
