from __future__ import annotations

from milestones.lines import line_of, lines_of

TEXT = '''\
format = 1
about = """
[[milestone]]
id = 7
"""

[[milestone]]
id = 1
scope = [
  "a",
]

[[milestone.exclusion]]
test = "x"

[[milestone.exclusion]]
test = "y"

[[milestone]]
id = 2

[[milestone.exclusion]]
test = "z"
'''


def test_keys_have_the_line_that_they_stand_on() -> None:
    found = lines_of(TEXT)
    assert found["format",] == 1
    assert found["milestone", 0] == 7
    assert found["milestone", 0, "id"] == 8
    assert found["milestone", 0, "scope"] == 9
    assert found["milestone", 0, "exclusion", 0, "test"] == 14
    assert found["milestone", 0, "exclusion", 1, "test"] == 17
    assert found["milestone", 1, "id"] == 20
    assert found["milestone", 1, "exclusion", 0, "test"] == 23


def test_what_stands_in_a_long_string_is_no_key() -> None:
    assert sum(path[0] == "milestone" and path[-1] == "id" for path in lines_of(TEXT)) == 2


def test_what_is_not_there_has_the_line_of_what_is_around_it() -> None:
    found = lines_of(TEXT)
    assert line_of(found, ("milestone", 1, "title")) == 19
    assert line_of(found, ("milestone", 0, "scope", 0)) == 9
    assert line_of(found, ("stack",)) == 1
