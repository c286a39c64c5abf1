from __future__ import annotations

import pytest

from milestones.regions import RegionError, mark, names, replace

PAGE = """\
# Mine

<!-- stack:one -->
old
<!-- /stack:one -->

Mine, too. `<!-- stack:two -->` is said in a text.

<!-- stack:two -->
<!-- /stack:two -->
The end
"""


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = replace(PAGE, {"one": "new\n\nlines\n", "two": "2"})
    assert page == PAGE.replace("\nold\n", "\nnew\n\nlines\n").replace(
        "<!-- stack:two -->\n<", "<!-- stack:two -->\n2\n<"
    )
    assert replace(page, {"one": "new\n\nlines", "two": "2"}) == page


def test_the_names_are_those_of_the_marks() -> None:
    assert names(PAGE) == ["one", "two"]
    assert names(mark("a-1", "text")) == ["a-1"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<!-- /stack:one -->\n", "", "<!-- stack:two --> begins inside of one"),
        ("<!-- stack:one -->\n", "", "<!-- /stack:one --> ends what did not begin"),
        ("<!-- /stack:two -->\n", "", "<!-- stack:two --> does not end"),
        ("stack:two -->\n<!-- /stack:two", "stack:one -->\n<!-- /stack:one", "one --> is there"),
        ("stack:two -->\n<!-- /stack:two", "stack:six -->\n<!-- /stack:six", "two --> is missing"),
    ],
)
def test_marks_that_do_not_fit_are_an_error(old: str, new: str, message: str) -> None:
    assert old in PAGE
    with pytest.raises(RegionError, match=message):
        replace(PAGE.replace(old, new), {"one": "", "two": ""})


def test_a_region_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(RegionError, match="<!-- stack:two --> is not a region that is known"):
        replace(PAGE, {"one": ""})
