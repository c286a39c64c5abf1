"""The page says what the record says, and a page that says anything else is found."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.page import PAGE, RECORD, check, main, render
from benchmarks.record import ROOT, Record, RecordError, write
from tests.support.scratch_benchmarks import record


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A record and the page of it, as options."""
    write(tmp_path / "record.json", record())
    options = ["--record", str(tmp_path / "record.json"), "--page", str(tmp_path / "page.md")]
    assert main(options) == 0
    return options


def front(made: Record) -> str:
    """Return the page that has the targets."""
    return render(made)["performance.md"]


def lines(start: str) -> list[str]:
    """Return the lines of the pages that begin so."""
    pages = [text for name, text in render(record()).items() if name.endswith(".md")]
    return [line for page in pages for line in page.splitlines() if line.startswith(start)]


def test_the_pages_of_the_docs_are_what_their_record_says() -> None:
    assert check(RECORD, PAGE) == ""


def test_the_page_shows_the_machine_and_the_versions() -> None:
    assert lines("| taken") == ["| taken | 2026-01-02 03:04 UTC |"]
    assert lines("| commit") == ["| commit | `0123456789ab` |"]
    assert lines("| processor") == ["| processor | A processor |"]
    assert lines("| cores") == ["| cores | 4, 2 of them usable |"]
    assert lines("| memory") == ["| memory | 8.0 GiB |"]
    assert lines("| load") == [
        "| load average at the start | 0.50 / 1.00 / 1.50 (1, 5, 15 minutes) |"
    ]
    assert lines("| versions") == ["| versions | python 3.11.7, kvpool 0.1, peer 1.2 |"]


def test_the_page_says_that_the_commit_is_not_all() -> None:
    made = record()
    assert made.commit is not None
    page = front(replace(made, commit=replace(made.commit, changed=True)))
    assert "| commit | `0123456789ab`, with changes that are in no commit |" in page
    assert "| commit" not in front(replace(made, commit=None))


def test_the_page_shows_figures_with_both_sides() -> None:
    sides = "ours | 2 µs | theirs | 5,000 µs"
    assert lines("| one task | ours |") == [
        "| one task | ours | 2 µs | 1.5 / 2.5 | 3 | ≤ 2 | met |",
        f"| one task | {sides} | 2,500 times as fast | ≥ 3,000 | **missed** |",
    ]
    assert lines("| one task | theirs |") == [
        "| one task | theirs | 5,000 µs | 4,500 / 5,500 | 3 |  |  |"
    ]
    assert lines("* all") == ["* all is small"]
    begin = "# Speed\n\nHow fast it is.\n\n`python -m benchmarks speed`\n"
    assert render(record())["performance/speed.md"].startswith(begin)


@pytest.mark.parametrize(
    ("title", "heading"),
    [
        ("how long it takes", "How long it takes"),
        ("vLLM", "vLLM"),
        ("llama.cpp: x", "llama.cpp: x"),
    ],
)
def test_a_name_keeps_its_letters_in_a_heading(title: str, heading: str) -> None:
    made = record()
    (measured, *others) = made.benchmarks
    assert measured.report is not None
    named = replace(measured, report=replace(measured.report, title=title))
    files = render(replace(made, benchmarks=(named, *others)))
    assert files["performance/speed.md"].startswith(f"# {heading}\n")
    assert f"\n## {heading}\n" in files["performance.md"]


def test_the_page_hides_no_missed_target_and_nothing_that_did_not_run() -> None:
    page = front(record())
    assert "\n1 of 2 are met.\n" in page
    link = "[speed](performance/speed.md)"
    found = "one task, ours beside theirs: 2,500 times as fast, target ≥ 3,000"
    assert f"\n* {link}: {found}\n" in page
    assert "| [torch_speed](performance/torch_speed.md) | there is no torch |" in page
    assert "\nFailed: ValueError: 7 is too many\n" in page


def test_each_benchmark_has_a_page_and_what_is_compared_has_a_chart() -> None:
    made = record()
    files = render(made)
    names = {one.name for one in made.benchmarks}
    pages = {f"performance/{name}.md" for name in names} | {"performance.md"}
    assert set(files) == {*pages, "performance.svg", "performance/speed.svg"}
    assert "](performance/speed.svg)" in files["performance.md"]
    assert "](speed.svg)" in files["performance/speed.md"]
    links = {f"](performance/{name}.md)" for name in names}
    assert all(link in files["performance.md"] for link in links)


def test_links_name_the_files_that_are_written() -> None:
    files = render(record(), stem="other")
    assert "[the record](other.json)" in files["other.md"]
    assert "](../other.md#the-run)" in files["other/speed.md"]


def test_a_benchmark_that_was_run_by_itself_shows_its_run() -> None:
    made = record()
    (found, *_), (before, skipped, _) = made.benchmarks, made.benchmarks
    measured = replace(found, name="torch_speed")
    own = replace(made, versions={"torch": "2.13"}, benchmarks=(measured,))
    files = render(replace(made, benchmarks=(before, skipped)), {"record-torch_speed.json": own})
    assert "there is no torch" not in "".join(files.values())
    assert "\n2 of 4 are met.\n" in files["performance.md"]
    page = files["performance/torch_speed.md"]
    run = page.partition("Of this benchmark [alone](../record-torch_speed.json):")[2]
    assert "| versions | torch 2.13 |" in run
    assert "".join(files.values()).count("| versions |") == 2


def test_a_quick_run_by_itself_makes_no_page() -> None:
    with pytest.raises(RecordError, match="a quick run"):
        render(record(), {"record-speed.json": replace(record(), quick=True)})


def test_a_cell_ends_where_it_should() -> None:
    made = record()
    odd = replace(made.benchmarks[1], reason="a | b\nc")
    assert " | a \\| b c |" in front(replace(made, benchmarks=(odd,)))


def test_a_quick_run_makes_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecordError, match="a quick run"):
        render(replace(record(), quick=True))
    write(tmp_path / "record.json", replace(record(), quick=True))
    page = tmp_path / "page.md"
    assert main(["--record", str(tmp_path / "record.json"), "--page", str(page)]) == 1
    assert "a quick run" in capsys.readouterr().err
    assert not page.exists()


def test_check_passes_on_a_fresh_page_and_writes_nothing(files: list[str]) -> None:
    page = Path(files[-1])
    before = page.stat().st_mtime_ns
    assert main([*files, "--check"]) == 0
    assert page.stat().st_mtime_ns == before


def test_check_finds_a_page_that_was_edited(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(files[-1]).with_suffix("") / "speed.md"
    edited = page.read_text(encoding="utf-8").replace("**missed**", "met")
    page.write_text(edited, encoding="utf-8")
    assert main([*files, "--check"]) == 1
    assert f"{page} is not what" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == edited


def test_check_finds_a_record_that_was_made_anew(files: list[str]) -> None:
    write(Path(files[1]), replace(record(), versions={"python": "3.14.0"}))
    assert main([*files, "--check"]) == 1
    assert main(files) == 0
    assert main([*files, "--check"]) == 0


@pytest.mark.parametrize("name", ["page/gone.md", "page/gone.svg"])
def test_check_finds_what_is_of_no_benchmark(
    files: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left = Path(files[-1]).parent / name
    left.write_text("old", encoding="utf-8")
    assert main([*files, "--check"]) == 1
    assert f"{left} is of no benchmark" in capsys.readouterr().err
    assert main(files) == 0
    assert not left.exists()


def test_check_finds_a_chart_that_was_edited(files: list[str]) -> None:
    chart = Path(files[-1]).with_suffix("") / "speed.svg"
    chart.write_text(chart.read_text(encoding="utf-8").replace("5,000", "9,000"), encoding="utf-8")
    assert main([*files, "--check"]) == 1


def test_check_finds_another_record_beside(files: list[str]) -> None:
    made = record()
    write(Path(files[1]).with_name("record-speed.json"), replace(made, benchmarks=()))
    assert main([*files, "--check"]) == 0
    write(Path(files[1]).with_name("record-speed.json"), made)
    assert main([*files, "--check"]) == 1


def test_check_finds_a_page_or_a_record_that_is_missing(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files[-1]).unlink()
    assert main([*files, "--check"]) == 1
    assert "is missing" in capsys.readouterr().err
    Path(files[1]).unlink()
    assert main([*files, "--check"]) == 1
    assert files[1] in capsys.readouterr().err


def test_the_command_of_the_docs_gate(files: list[str]) -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert 'session.run("python", "-m", "benchmarks.page", "--check")' in noxfile
    command = [sys.executable, "-m", "benchmarks.page", "--check"]
    assert subprocess.run([*command, *files], cwd=ROOT, check=False).returncode == 0
    Path(files[-1]).write_text("# Performance\n", encoding="utf-8")
    ended = subprocess.run([*command, *files], cwd=ROOT, check=False, capture_output=True)
    assert ended.returncode == 1
