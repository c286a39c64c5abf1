"""`kvpool replay`, run as a user runs it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kvpool.cli._app import app
from kvpool.entry import KVCacheEntry
from kvpool.errors import InvalidSizeError
from kvpool.ledger import LedgerSink, verify
from kvpool.replay import Replay
from tests.support.called import run
from tests.support.marks import needs_pages
from tests.support.terminal import KVPOOL, in_terminal, unmeasured

DATA = Path(__file__).parents[1] / "data"
AZURE = str(DATA / "azure_small.csv")
MOONCAKE = str(DATA / "mooncake_small.jsonl")
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2024-02-29 08:00:00,10,2\n"


def figures(*arguments: str) -> Any:
    done = run("replay", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def refused(*arguments: str, code: int = 1) -> str:
    done = run("replay", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_json(backend: str) -> None:
    shown = figures(AZURE, "--backend", backend)
    assert (shown["trace"], shown["format"]) == (AZURE, "azure")
    assert shown["backend"] == backend
    assert shown["capacity_bytes"] == 512 << 20
    assert shown["complete"]
    assert (shown["requests"], shown["rejected"], shown["skipped_lines"]) == (5, 0, 0)
    assert shown["tokens"]["written"] == 1737
    assert shown["bytes"]["written"] == 1737 * 2 * 2 * 2 * 64 * 2
    assert shown["checksum_failures"] == 0
    assert shown["hit_rate"] is None


def test_ledger_accounts_for_the_replay(backend: str, tmp_path: Path) -> None:
    ledger = tmp_path / "pool.jsonl"
    shown = figures(AZURE, "--backend", backend, "--capacity", "1MiB", "--ledger", str(ledger))
    report = verify(ledger)
    assert report.ok, report.findings
    assert report.is_sealed
    assert shown["requests"] > shown["rejected"]
    assert report.events["kv_eviction"] == shown["requests"] - shown["rejected"]


def test_a_replay_that_cannot_begin_closes_its_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "pool.jsonl"
    arguments = ["replay", AZURE, "--capacity", "1", "--ledger", str(ledger)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InvalidSizeError)
    LedgerSink(ledger).close()  # nobody else writes to it
    assert verify(ledger).ok  # and the one before has sealed it
    assert b'"kind":"recovery"' not in ledger.read_bytes()


def test_options_are_heeded() -> None:
    shown = figures(
        *(MOONCAKE, "--format", "mooncake", "--capacity", "1.5MiB", "--max-requests", "4"),
        *("--layers", "3", "--kv-heads", "1", "--head-dim", "16", "--dtype", "bfloat16"),
        *("--policy", "lru", "--ttl", "3", "--backend", "mmap"),
    )
    assert shown["requests"] == 4
    assert shown["layout"] == "3 x 1 x 16 bfloat16"
    assert shown["capacity_bytes"] == 3 << 19
    assert shown["bytes"]["written"] == shown["tokens"]["written"] * 2 * 3 * 1 * 16 * 2
    assert (shown["ttl_seconds"], shown["evictions"]["ttl"]) == (3.0, 3)


@needs_pages
def test_pages_are_charged_and_the_system_agrees() -> None:
    options = ("--backend", "mmap", "--head-dim", "128", "--max-context", "131072")
    shown = figures(AZURE, *options)
    assert (shown["elastic"], shown["max_context_length"]) == (True, 131072)
    use = shown["utilization"]
    assert use["committed_by_system_at_end"] == use["used_bytes_at_end"]
    assert use["live_of_used"] == use["live_of_paged_blocks"] > 0.9
    assert use["live_of_whole_blocks"] < 0.01
    by_layer = figures(AZURE, *options, "--packing", "layer")
    assert use["live_of_used"] < by_layer["utilization"]["live_of_used"] < 1


@needs_pages
def test_tokens_are_only_counted() -> None:
    shown = figures(AZURE, "--backend", "mmap", "--count-only")
    assert not shown["bytes_are_written"]
    assert shown["tokens"]["written"] == 1737
    assert shown["bytes"] == {"written": 0, "verified": 0}
    text = run("replay", AZURE, "--count-only").stdout
    assert "With --count-only no byte was written or checked." in text
    assert re.search(r"checksum failures +n/a", text)


def test_whole_blocks_are_charged_where_that_is_asked_for() -> None:
    shown = figures(AZURE, "--backend", "mmap", "--no-elastic", "--max-context", "2000")
    use = shown["utilization"]
    assert not shown["elastic"]
    assert use["live_of_used"] == use["live_of_whole_blocks"] < 0.5
    assert "numpy" in refused(AZURE, "--backend", "numpy", "--elastic", code=2)


def test_a_request_longer_than_an_entry_is_rejected() -> None:
    done = run("replay", AZURE, "--max-context", "1000")
    assert re.search(r"rejected +1\b", done.stdout)
    assert "have more than 1,000 tokens" in " ".join(done.stdout.split())


def test_the_table() -> None:
    done = run("replay", MOONCAKE, "--capacity", "2MiB")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "mooncake_small.jsonl, layout 2 x 2 x 64 float16, policy lru" in lines[0]
    for wanted in (r"requests +5\b", r"rejected +1\b", r"capacity +2\.0 MiB"):
        assert re.search(wanted, done.stdout)
    assert "Rejected requests need more memory than the whole pool has." in done.stdout


def test_a_trace_without_sessions_has_no_hit_rate() -> None:
    done = run("replay", AZURE)
    assert re.search(r"hit rate +n/a", done.stdout)
    assert "the trace has no session ids" in done.stdout


# -- broken lines ------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    path = tmp_path / "damaged.csv"
    path.write_text(f"{HEADER}{ROW}yesterday,1,2\n{ROW}[bold]\n")
    return str(path)


def test_a_broken_line_is_an_error_with_its_place_and_text(damaged: str) -> None:
    expected = f"kvpool: {damaged}:3: TIMESTAMP is not a date and time: 'yesterday,1,2'\n"
    assert refused(damaged) == expected
    assert refused(damaged, "--json") == expected


def test_broken_lines_are_skipped_and_counted(damaged: str) -> None:
    shown = figures(damaged, "--skip-bad")
    assert (shown["requests"], shown["skipped_lines"]) == (2, 2)
    done = run("replay", damaged, "--skip-bad")
    assert done.returncode == 0
    assert re.search(r"skipped lines +2\b", done.stdout)
    assert f"{damaged}:3: TIMESTAMP is not a date and time" in done.stdout


# -- what cannot be ----------------------------------------------------------------------


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot read" in refused(str(tmp_path / "nowhere.csv"))
    (tmp_path / "empty.csv").touch()
    assert "is empty" in refused(str(tmp_path / "empty.csv"))
    (tmp_path / "wrong.csv").write_text("a,b,c\n1,2,3\n")
    assert "wrong.csv:1: the header lacks TIMESTAMP" in refused(str(tmp_path / "wrong.csv"))


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--backend", "nowhere", "unknown backend 'nowhere'"),
        ("--policy", "whim", "unknown eviction policy 'whim'"),
        ("--dtype", "float8", "unsupported dtype 'float8'; use float32"),
        ("--ttl", "0", "above 0 seconds"),
        ("--capacity", "63", "63"),
    ],
)
def test_settings_that_cannot_be(option: str, value: str, reason: str) -> None:
    error = refused(AZURE, option, value, code=2)
    assert error.startswith("kvpool: ")
    assert error.count("\n") == 1
    assert reason in error


@pytest.mark.parametrize(
    ("option", "value"),
    [("--capacity", "much"), ("--layers", "0"), ("--format", "parquet"), ("--ttl", "soon")],
)
def test_words_that_are_no_settings(option: str, value: str) -> None:
    assert option in refused(AZURE, option, value, code=2)


# -- failures ----------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_checksum_failure_is_shown_and_fails(
    monkeypatch: pytest.MonkeyPatch, as_json: tuple[str, ...]
) -> None:
    finish = Replay.finish

    def finish_after_an_accident(run: Replay) -> None:
        run.sessions()[1].entry.value(1, writeable=True)[0, 3, 5] = 42
        finish(run)

    monkeypatch.setattr(Replay, "finish", finish_after_an_accident)
    result = CliRunner().invoke(app, ["replay", AZURE, *as_json])
    assert result.exit_code == 1
    assert "bytes read differ from bytes written" in result.stderr
    assert "replay/1: values of layer 1, head 0" in result.stderr
    if as_json:
        assert json.loads(result.stdout)["checksum_failures"] == 1
    else:
        assert re.search(r"checksum failures +1\b", result.stdout)


# -- Ctrl-C, and the bar -----------------------------------------------------------------

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")


def feed(pipe: Path, enough: threading.Event) -> None:
    """Write rows without end; say when more were read than any buffer holds."""
    row = ROW.strip().ljust(1023) + "\n"
    with contextlib.suppress(BrokenPipeError), pipe.open("w") as trace:
        trace.write(HEADER)
        for number in itertools.count():
            trace.write(row)
            if number == 512:
                enough.set()


def test_ctrl_c_waits_for_the_end_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    truncate = KVCacheEntry.truncate

    def truncate_after_ctrl_c(entry: KVCacheEntry, token_count: int) -> None:
        signal.raise_signal(signal.SIGINT)
        truncate(entry, token_count)

    monkeypatch.setattr(KVCacheEntry, "truncate", truncate_after_ctrl_c)
    result = CliRunner().invoke(app, ["replay", AZURE, "--json"])
    assert result.exit_code == 130
    shown = json.loads(result.stdout)
    assert (shown["requests"], shown["tokens"]["written"]) == (1, 312)


@needs_pipes
@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_ctrl_c_ends_it_with_what_there_is(tmp_path: Path, as_json: tuple[str, ...]) -> None:
    pipe = tmp_path / "trace.csv"
    os.mkfifo(pipe)
    enough = threading.Event()
    writer = threading.Thread(target=feed, args=(pipe, enough))
    writer.start()
    with subprocess.Popen(
        [KVPOOL, "replay", str(pipe), *as_json],
        env=unmeasured(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        enough.wait()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    writer.join()
    assert process.returncode == 130
    assert err.startswith("kvpool: interrupted after ")
    assert err.count("\n") == 1
    if as_json:
        shown = json.loads(out)
        assert not shown["complete"]
        assert shown["requests"] > 0
        assert shown["checksum_failures"] == 0
    else:
        assert "Incomplete: the remaining sessions were not read back." in out


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals")
def test_a_terminal_shows_a_bar_and_then_the_table() -> None:
    with in_terminal("replay", MOONCAKE) as (process, chunks):
        shown = "".join(chunks)
    assert process.returncode == 0
    assert "0 requests, 0 tokens" in shown
    assert "checksum failures" in shown


@pytest.mark.parametrize("size", [None, "16"])
def test_hash_blocks_may_have_another_size(tmp_path: Path, size: str | None) -> None:
    path = tmp_path / "blocks.jsonl"
    path.write_text(
        '{"timestamp": 0, "input_length": 50, "output_length": 5, "hash_ids": [1, 2, 3, 4]}\n'
        '{"timestamp": 9, "input_length": 70, "output_length": 5, "hash_ids": [1, 2, 3, 5, 6]}\n',
        encoding="utf-8",
    )
    given = [] if size is None else ["--hash-block-tokens", size]
    shown = figures(str(path), *given)
    assert shown["tokens"]["reused"] == 48


def test_blocks(backend: str) -> None:
    shown = figures(MOONCAKE, "--capacity-blocks", "9", "--policy", "lfu", "--backend", backend)
    assert (shown["policy"], shown["capacity_blocks"], shown["complete"]) == ("lfu", 9, True)
    assert shown["blocks"] > shown["hit_blocks"] > 0
    assert sum(shown["blocks_by_source"].values()) == shown["hit_blocks"]
    assert shown["blocks_held"] <= 9


@pytest.mark.parametrize("options", [(), ("--capacity-blocks", "9")])
def test_csv_is_one_row(options: tuple[str, ...]) -> None:
    done = run("replay", MOONCAKE, *options, "--csv")
    assert (done.returncode, done.stderr) == (0, "")
    names, row = done.stdout.splitlines()
    assert names.startswith("backend,") or "policy" in names
    assert len(names.split(",")) == len(row.split(","))
    assert "not both" in refused(MOONCAKE, "--csv", "--json", code=2)


def test_the_table_of_blocks() -> None:
    done = run("replay", MOONCAKE, "--capacity-blocks", "1000")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"hit ratio +0\.\d{4}", done.stdout)
    assert "1,000 blocks, policy hit-density" in done.stdout


def test_the_hits_of_each_level(tmp_path: Path) -> None:
    options = ("--capacity-blocks", "9", "--tier", f"disk:{tmp_path}/kv?capacity=4MiB")
    first = figures(MOONCAKE, *options)
    again = figures(MOONCAKE, *options, "--tier-blocks", "50")
    assert [level["level"] for level in again["levels"]] == [
        "pool",
        "memory:",
        f"disk:{tmp_path}/kv",
    ]
    assert again["hit_blocks"] == again["blocks"] > first["hit_blocks"]
    assert sum(level["hit_blocks"] for level in again["levels"]) == again["hit_blocks"]
    done = run("replay", MOONCAKE, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("hit blocks") >= 2  # of all levels, and of each
    assert re.search(r"of tiers +\d+", done.stdout)


def test_tiers_are_for_blocks() -> None:
    assert "need --capacity-blocks" in refused(MOONCAKE, "--tier", "memory:", code=2)
    assert "need --capacity-blocks" in refused(MOONCAKE, "--tier-blocks", "9", code=2)
    assert "disk" in refused(MOONCAKE, "--capacity-blocks", "9", "--tier", "disk", code=2)


@pytest.mark.parametrize("option", ["--layers=3", "--count-only", "--ledger=here", "--ttl=3"])
def test_blocks_have_no_other_options(option: str) -> None:
    text = refused(MOONCAKE, "--capacity-blocks", "9", option, code=2)
    assert option.split("=", maxsplit=1)[0] in text
    assert "--capacity-blocks" in text


def test_blocks_of_a_trace_without_ids() -> None:
    assert "ids of blocks" in refused(AZURE, "--capacity-blocks", "9")
