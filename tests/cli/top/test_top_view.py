"""What `kvpool top` shows: rates, quantiles, and the drawing at several widths."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.live import Live

from kvpool.cli._scrape import Scrape
from kvpool.cli._top.history import History
from kvpool.cli._top.view import View

POOL = """\
kvpool_pool_capacity_bytes 4194304
kvpool_pool_memory_bytes{state="used"} 3145728
kvpool_pool_memory_bytes{state="free"} 1048576
kvpool_pool_reserved_bytes 8388608
kvpool_pool_fragmentation_ratio 0.25
kvpool_entries{state="unpinned"} 9
kvpool_entries{state="pinned"} 1
kvpool_entries{state="draining"} 2
kvpool_evictions_total{reason="lru"} 30
kvpool_evictions_total{reason="ttl"} 0
kvpool_forks 9
kvpool_copied_forks_total{reason="mappings"} 25
kvpool_prefix_asked_tokens_total 2000
kvpool_prefix_reused_tokens_total{source="forked"} 1500
kvpool_prefix_held_tokens 700
"""
LATER = POOL.replace(" 2000", " 2400").replace(" 1500", " 1800").replace('"lru"} 30', '"lru"} 35')
ENGINE = """\
kvpool_model_info{id="tiny\\n[bold]\x1b[2J"} 1
kvpool_active_requests{state="running"} 4
kvpool_active_requests{state="loading"} 2
kvpool_requests_total{outcome="stop"} 120
kvpool_preemptions_total 3
kvpool_completion_tokens_total 9000
kvpool_time_to_first_token_seconds_bucket{le="0.1"} 5
kvpool_time_to_first_token_seconds_bucket{le="0.2"} 10
kvpool_time_to_first_token_seconds_bucket{le="+Inf"} 10
"""


def history(*texts: str) -> History:
    made = History(Scrape(texts[0], 0.0))
    for seconds, text in enumerate(texts[1:], 1):
        made.add(Scrape(text, 2.0 * seconds))
    return made


def drawn(of: History, width: int = 80, encoding: str = "utf-8", trouble: str = "") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding, write_through=True)
    Console(file=file, width=width, markup=False, highlight=False, emoji=False).print(
        View(of, "http://host", "12:00:00", trouble)
    )
    return raw.getvalue().decode(encoding)


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of each row by its first words."""
    cells = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.split("\n")
    ]
    return {row[0]: row[1:] for row in cells if row}


# -- rates and quantiles -----------------------------------------------------------------------


def test_a_rate_is_known_from_the_second_scrape_on() -> None:
    one, two = history("a 1"), history("a 1", "a 7", "a 8")
    assert one.is_one
    assert one.rate("a") is None
    assert one.rates("a") == []
    assert two.rates("a") == [3.0, 0.5]
    assert two.rate("a") == 0.5
    assert two.seconds == 4


def test_a_counter_of_a_server_that_began_anew_has_risen_from_zero() -> None:
    assert history("a 100", "a 6").rate("a") == 3


def test_old_scrapes_are_forgotten() -> None:
    many = history(*(f"a {number}" for number in range(100)))
    assert len(many.rates("a")) == 59


def buckets(*counts: int) -> str:
    ends = ("0.1", "0.2", "0.4", "+Inf")
    return "\n".join(
        f'h_bucket{{le="{end}"}} {count}' for end, count in zip(ends, counts, strict=True)
    )


@pytest.mark.parametrize(
    ("part", "expected"), [(0.5, 0.1), (0.75, 0.15), (0.9, 0.18), (1.0, 0.2), (0.25, 0.05)]
)
def test_a_quantile_is_interpolated_in_its_bucket(part: float, expected: float) -> None:
    assert history(buckets(10, 20, 20, 20)).quantile("h", part) == pytest.approx(expected)


def test_a_quantile_in_the_last_bucket_is_where_that_begins() -> None:
    assert history(buckets(0, 0, 1, 10)).quantile("h", 0.99) == 0.4


def test_a_quantile_is_of_what_was_counted_meanwhile() -> None:
    before, after = buckets(100, 100, 100, 100), buckets(100, 100, 110, 110)
    assert history(before, after).quantile("h", 0.5) == pytest.approx(0.3)
    assert history(before, before).quantile("h", 0.5) == pytest.approx(0.05)
    assert history(buckets(0, 0, 0, 0)).quantile("h", 0.5) is None
    assert history("a 1").quantile("h", 0.5) is None


# -- the drawing -------------------------------------------------------------------------------


def test_a_pool_is_shown() -> None:
    shown = drawn(history(POOL, LATER))
    lines = rows(shown)
    assert "3.0 MiB of 4.0 MiB, 75%" in lines
    assert lines["3.0 MiB of 4.0 MiB, 75%"] == ["8.0 MiB reserved", "25% fragmented"]
    assert lines["9 unpinned"] == ["1 pinned", "2 draining"]
    assert lines["9 forks share pages"] == ["25 had to be copied"]
    assert lines["lru"] == ["2.5", "35"]
    assert "ttl" not in lines
    assert lines["reused"][:2] == ["150", "1,800"]
    assert lines["computed"][:2] == ["50", "600"]
    assert lines["reuse"][:2] == ["75%", "75%"]
    assert lines["held"] == ["700"]
    assert "requests" not in shown


def test_the_first_scrape_has_no_rates() -> None:
    lines = rows(drawn(history(POOL)))
    assert lines["lru"] == ["-", "30"]
    assert lines["reused"] == ["-", "1,500"]
    assert lines["reuse"] == ["-", "75%"]


def test_an_engine_is_shown() -> None:
    shown = drawn(history(POOL + ENGINE, LATER + ENGINE))
    lines = rows(shown)
    assert lines["generated"][:2] == ["0", "9,000"]
    assert lines["4 running"] == ["2 loading", "3 preempted"]
    assert "120 stop" in lines
    assert lines["to the first token"] == ["100.0 ms", "190.0 ms", "198.0 ms"]
    assert lines["between tokens"] == ["-", "-", "-"]


def test_names_of_the_server_cannot_do_anything_to_the_terminal() -> None:
    shown = drawn(history(POOL + ENGINE))
    assert "tiny\\n[bold]\\x1b[2J" in shown
    assert "\x1b" not in shown


def test_a_pool_that_was_not_used_is_shown() -> None:
    lines = rows(drawn(history("kvpool_pool_capacity_bytes 0\n", "kvpool_pool_capacity_bytes 0\n")))
    assert "not any" in lines
    assert lines["reuse"][:2] == ["-", "-"]


def test_trouble_is_shown_above_the_last_figures() -> None:
    shown = drawn(history(POOL), trouble="cannot read it").split("\n")
    assert shown[1] == "cannot read it"


@pytest.mark.parametrize("width", [60, 80, 99])
def test_sections_stand_below_each_other_on_a_narrow_screen(width: int) -> None:
    lines = drawn(history(POOL + ENGINE, LATER + ENGINE), width).split("\n")
    assert max(map(len, lines)) <= width
    starts = [line.strip() for line in lines if line and not line.startswith(" ")]
    assert [start.split()[0] for start in starts[2:]] == [
        *("memory", "entries", "evictions", "tokens", "requests", "latency"),
    ]


@pytest.mark.parametrize("width", [100, 120, 200])
def test_sections_stand_beside_each_other_on_a_wide_screen(width: int) -> None:
    lines = drawn(history(POOL + ENGINE, LATER + ENGINE), width).split("\n")
    assert max(map(len, lines)) <= width
    (first,) = (line for line in lines if line.startswith("memory"))
    assert "tokens" in first
    assert "per s" in first
    assert len(lines) < 24


def test_a_terminal_without_unicode_gets_none() -> None:
    assert drawn(history(POOL + ENGINE, LATER + ENGINE), encoding="ascii").isascii()


@pytest.mark.parametrize(("width", "lines"), [(60, 24), (80, 24), (120, 24), (120, 15)])
def test_a_low_screen_shows_all_figures(width: int, lines: int) -> None:
    """A screen cuts what is below it."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=lines, force_terminal=True)
    of = history(POOL + ENGINE, LATER + ENGINE)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        live.update(View(of, "http://host", "12:00:00", lines=lines), refresh=True)
    assert "between tokens" in file.getvalue()
