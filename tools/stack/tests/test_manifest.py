from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from milestones.errors import StackError
from milestones.manifest import ManifestError, load_all, schema

from .project import manifest

EXCLUSION = '\n[[milestone.exclusion]]\ntest = "tests/a.py::b"\nreason = "r"\nexpires = {}\n'


def write(root: Path, **texts: str) -> Path:
    for stack, text in texts.items():
        path = root / f"docs/stack/{stack}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def problems(root: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load_all(root)
    return [str(problem) for problem in caught.value.problems]


def test_a_milestone_knows_its_place(tmp_path: Path) -> None:
    demo = load_all(write(tmp_path, demo=manifest(3)))["demo"]
    assert [one.key for one in demo.milestones] == ["demo/1", "demo/2", "demo/3"]
    assert [one.position for one in demo.milestones] == ["1/3", "2/3", "3/3"]
    first, second = demo.milestones[:2]
    assert demo.parent(first) is None
    assert demo.parent(second) is first


def test_only_the_last_milestone_of_an_issue_closes_it(tmp_path: Path) -> None:
    text = manifest(5).replace("issue = 7", "issue = 8")
    for number in (1, 2):
        text = re.sub(rf"(id = {number}\n(?:.+\n)*?)issue = 8", r"\1issue = 7", text)
    text = re.sub(r"(id = 5\n(?:.+\n)*?)issue = 8\n", r"\1", text)
    demo = load_all(write(tmp_path, demo=text))["demo"]
    wanted = ["Part of #7", "Closes #7", "Part of #8", "Closes #8", ""]
    assert [one.reference for one in demo.milestones] == wanted


FAULTS = {
    "missing": ('title = "Part 2"\n', "", r":16: milestone\[2\].title: is missing"),
    "branch": (
        '"feat/demo-2"',
        '"feat demo"',
        r":19: milestone\[2\].branch: string should match pattern .*, not 'feat demo'",
    ),
    "type": (
        "id = 2",
        'id = "2"',
        r":17: milestone\[2\].id: input should be a valid integer, not '2'",
    ),
    "position": ("id = 2", "id = 4", r":17: milestone\[2\].id: 4 in position 2"),
    "unknown": (
        "id = 2",
        "id = 2\nwho = 1",
        r":18: milestone\[2\].who: is not a key that is known here",
    ),
    "commit": (
        "id = 2",
        "id = 2\nfork_point = 'abc'",
        r":18: milestone\[2\].fork_point: .*, not 'abc'",
    ),
    "name": ('"demo"', '"other"', r":2: stack: 'other' is not the name of the file, 'demo'"),
    "parent": (
        'parent = "demo/1"',
        'parent = "demo/3"',
        r":20: milestone\[2\].parent: 'demo/3' is neither the trunk .*: main, demo/1",
    ),
    "trunk": ('"feat/demo-2"', '"main"', r":19: milestone\[2\].branch: 'main' is the trunk"),
    "branch twice": (
        '"feat/demo-2"',
        '"feat/demo-1"',
        r":19: milestone\[2\].branch: 'feat/demo-1' is the branch of demo/1 already",
    ),
    "depends": (
        "id = 2",
        'id = 2\ndepends = ["else/1"]',
        r":18: milestone\[2\].depends: there is no milestone 'else/1'",
    ),
    "circle": (
        "id = 2",
        'id = 2\ndepends = ["demo/3"]',
        r":18: milestone\[2\].depends: 'demo/3' needs demo/2 itself",
    ),
    "no TOML": ("id = 2", "id = = 2", r":17: no TOML: .*line 17"),
    "day": (
        'next = "The part 3."\n',
        'next = "The part 3."\n' + EXCLUSION.format('"soon"'),
        r":28: milestone\[2\].exclusion\[1\].expires: .*, not 'soon'",
    ),
    "empty": ('scope = ["The part 2"]', "scope = []", r":22: milestone\[2\].scope: .*, not \[\]"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_problem_names_file_key_and_line(tmp_path: Path, name: str) -> None:
    old, new, problem = FAULTS[name]
    text = manifest(3)
    assert text.count(old) == 1, text
    found = problems(write(tmp_path, demo=text.replace(old, new)))
    assert any(re.fullmatch(f"docs/stack/demo.toml{problem}.*", line) for line in found), found


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        one=manifest(1, "one").replace("id = 1", "id = 3").replace('"Part 1"', '""'),
        two=manifest(1, "two").replace("feat/two-1", "feat/three-1"),
        three=manifest(1, "three"),
        four="format = 2\n",
    )
    found = problems(root)
    assert [line.partition(":")[0].rpartition("/")[2] for line in found] == [
        *["four.toml"] * 5,
        "one.toml",
        "two.toml",
    ]
    assert "docs/stack/four.toml:1: format: input should be 1, not 2" in found


def test_stacks_may_need_each_other_but_not_in_a_circle(tmp_path: Path) -> None:
    one = manifest(2, "one").replace("id = 2", 'id = 2\ndepends = ["two/1"]')
    root = write(tmp_path, one=one, two=manifest(1, "two"))
    assert load_all(root)["one"].milestones[1].depends == ["two/1"]
    write(root, two=manifest(1, "two").replace("id = 1", 'id = 1\ndepends = ["one/2"]'))
    assert len(problems(root)) == 2
    write(root, two=manifest(1, "two").replace("id = 1", 'id = 1\ndepends = ["one/1"]'))
    assert load_all(root)["two"].milestones[0].depends == ["one/1"]


def test_no_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="there is no stack: no manifest in docs/stack"):
        load_all(tmp_path)


def test_the_schema_has_every_key_with_a_description() -> None:
    document = json.loads(schema())
    tables = [document, *document["$defs"].values()]
    assert [set(table["required"]) for table in tables] == [
        {"format", "stack", "title", "about", "milestone"},
        {"test", "reason", "expires"},
        {"id", "title", "branch", "parent", "scope", "next"},
        {"title"},
    ]
    for table in tables:
        assert table["additionalProperties"] is False
        assert all("description" in value for value in table["properties"].values())
