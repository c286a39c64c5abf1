from __future__ import annotations

import io
import re
from itertools import pairwise

import pytest
from rich.console import Console

from kvpool.cli._arena_map import ArenaMap, Segment, charges, segments
from kvpool.pool import BlockUsage, MemoryPool

PARTS = [Segment(0, 300, 7), Segment(300, 100, None), Segment(400, 500, 12), Segment(900, 100, 3)]


def drawn(
    parts: list[Segment], width: int, rows: int, *, encoding: str = "utf-8", colours: bool = False
) -> list[str]:
    """The rows of a map, without colours if there are none, and the line below them."""
    raw = io.BytesIO()
    console = Console(
        file=io.TextIOWrapper(raw, encoding),
        width=width,
        force_terminal=colours,
        color_system="truecolor" if colours else None,
    )
    console.print(ArenaMap(parts, rows))
    console.file.flush()
    return raw.getvalue().decode(encoding).split("\n")[:-1]


def test_each_part_has_its_share_and_begins_with_its_owner() -> None:
    assert drawn(PARTS, 20, 1)[0] == "▕7░░░░··▕12░░░░░░░▕3"
    first, second, third, fourth = drawn(PARTS, 10, 4)[:4]
    assert first + second + third + fourth == "▕7░░░░░░░░░░····▕12░░░░░░░░░░░░░░░░░▕3░░"


def test_a_number_that_does_not_fit_is_left_out() -> None:
    assert drawn(PARTS, 10, 1)[0] == "▕7░·▕12░░▕"
    assert drawn([Segment(0, 9, None), Segment(9, 1, 42)], 10, 1)[0] == "·········▕"


def test_a_sign_shows_what_lies_in_the_middle_of_its_bytes() -> None:
    assert drawn([Segment(0, 20, None), Segment(20, 80, 5)], 2, 1)[0] == "▕5"
    assert drawn([Segment(0, 30, None), Segment(30, 70, 5)], 2, 1)[0] == "·▕"


def test_a_console_without_unicode_gets_ascii() -> None:
    assert drawn(PARTS, 20, 1, encoding="ascii")[0] == "|7====..|12=======|3"


def test_colours_stand_for_owners() -> None:
    row = drawn(PARTS, 20, 1, colours=True)[0]
    assert "\x1b" in row
    assert "░" not in row
    again = drawn([Segment(0, 1000, 7)], 20, 1, colours=True)[0]
    assert row.split("m")[0] == again.split("m")[0]


def test_a_terminal_that_is_to_show_no_colours_gets_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    row = drawn(PARTS, 20, 1, colours=True)[0]
    assert re.sub(r"\x1b\[\d*m", "", row) == "▕7░░░░··▕12░░░░░░░▕3"


def test_the_legend_says_what_a_character_is() -> None:
    assert drawn([Segment(0, 8192, None)], 60, 2)[2].startswith("one character is 68 B")


def test_without_color_there_is_no_control_character() -> None:
    assert not any(sign < " " for row in drawn(PARTS, 40, 3) for sign in row)


@pytest.mark.parametrize("width", [1, 2, 7, 80])
@pytest.mark.parametrize("rows", [1, 5])
def test_every_width_is_filled(width: int, rows: int) -> None:
    assert [len(row) for row in drawn(PARTS, width, rows)[:rows]] == [width] * rows


def test_the_ranges_of_a_pool_with_their_owners() -> None:
    with MemoryPool(1 << 16, "numpy") as pool:
        blocks = [pool.allocate(4096) for _ in range(4)]
        pool.deallocate(blocks[1])
        parts = segments(pool.ranges(), {blocks[0]: 5, blocks[3]: 6})
    assert [part.owner for part in parts] == [5, None, None, 6, None]
    assert all(one.offset + one.size == two.offset for one, two in pairwise(parts))
    assert sum(part.size for part in parts) == 1 << 16


def test_what_blocks_are_charged_with() -> None:
    with MemoryPool(1 << 12, "numpy") as pool:
        blocks = [pool.allocate(64) for _ in range(3)]
        usages = [
            BlockUsage(block, committed, 0, is_fork=False, is_live=True)
            for block, committed in zip(blocks, (100, 0, 60), strict=True)
        ]
        owners = {blocks[0]: 7}
        assert charges(usages, owners, 160) == [Segment(0, 100, 7), Segment(100, 60, -1)]
        parts = charges(usages, owners, 200)
        assert parts[2:] == [Segment(160, 40, None)]
    assert drawn(parts, 20, 1)[0] == "▕7░░░░░░░░▕░░░░░····"
