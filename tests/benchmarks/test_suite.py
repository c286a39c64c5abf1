"""Which modules are benchmarks, and what comes of those that cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

import benchmarks
from benchmarks.suite import Outcome, discover
from tests.support.scratch_benchmarks import MEASURES, MakePackage


def only(make_package: MakePackage, text: str, quick: bool = True) -> Outcome:
    """Run the one benchmark of a package."""
    (benchmark,) = discover(make_package(one=text))
    return benchmark.run(quick)


def test_every_module_with_run_is_a_benchmark() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in modules()}
    wanted = {name for name, text in texts.items() if "\ndef run(quick: bool) -> Report:" in text}
    assert wanted >= {"allocator_speed", "eviction", "pool_speed", "receipts", "utilization"}
    assert {one.name for one in discover(benchmarks)} == wanted


def modules() -> list[Path]:
    return list(Path(benchmarks.__path__[0]).glob("*.py"))


def test_a_new_module_is_found_by_itself_and_helpers_are_not(make_package: MakePackage) -> None:
    helper = "class Runner:\n    def run(self):\n        pass\n"
    package = make_package(fast=MEASURES, helper=helper, also='"""Also."""\ndef run(quick): ...\n')
    assert [(one.name, one.about) for one in discover(package)] == [
        ("also", "Also."),
        ("fast", "How fast it is."),
    ]


def test_a_benchmark_says_what_it_measures(make_package: MakePackage) -> None:
    with pytest.raises(ValueError, match=r"mute\.py does not say what it measures"):
        discover(make_package(mute="def run(quick): ...\n"))


@pytest.mark.parametrize(("quick", "rounds"), [(True, 1), (False, 3)])
def test_a_benchmark_that_measures(make_package: MakePackage, quick: bool, rounds: int) -> None:
    outcome = only(make_package, MEASURES, quick)
    assert (outcome.name, outcome.status, outcome.reason) == ("one", "measured", "")
    assert outcome.report is not None
    assert [one.rounds for one in outcome.report.measurements] == [rounds]


def test_what_is_not_here_skips_and_says_why(make_package: MakePackage) -> None:
    text = '"""With a trace."""\nfrom benchmarks.harness import UnavailableError\n'
    text += "def run(quick):\n    raise UnavailableError('there is no trace in nowhere')\n"
    outcome = only(make_package, text)
    assert (outcome.status, outcome.report) == ("skipped", None)
    assert outcome.reason == "there is no trace in nowhere"


@pytest.mark.parametrize(
    "text",
    [
        '"""It."""\nimport no_such_distribution.part\ndef run(quick): ...\n',
        '"""It."""\ndef run(quick):\n    import no_such_distribution\n',
    ],
)
def test_a_distribution_that_is_not_installed_skips(make_package: MakePackage, text: str) -> None:
    outcome = only(make_package, text)
    assert outcome.status == "skipped"
    assert "no_such_distribution" in outcome.reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('7 is too many')", "ValueError: 7 is too many"),
        (
            "import kvpool.no_such_room",
            "ModuleNotFoundError: No module named 'kvpool.no_such_room'",
        ),
        ("import benchmarks.gone", "ModuleNotFoundError: No module named 'benchmarks.gone'"),
        ("assert False, 'wrong'", "AssertionError: wrong"),
    ],
)
def test_a_benchmark_that_raises_failed(
    make_package: MakePackage, body: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = only(make_package, f'"""It."""\ndef run(quick):\n    {body}\n')
    assert (outcome.status, outcome.reason, outcome.report) == ("failed", reason, None)
    assert "Traceback" in capsys.readouterr().err
