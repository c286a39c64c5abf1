from __future__ import annotations

import importlib
import re
import tomllib
from importlib.metadata import distribution, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kvpool
from scripts.gates.interpreters import SUPPORTED
from scripts.gates.locks import CONSTRAINED, LOCKS
from scripts.gates.runner import GATES

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME = [Requirement(text) for text in PYPROJECT["project"]["dependencies"]]


def locked(name: str) -> dict[str, list[str]]:
    """Return the versions that a lock file has of each distribution (one for each platform)."""
    text = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8")
    versions: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        versions.setdefault(canonicalize_name(package), []).append(version)
    return versions


def requirements(group: str) -> list[Requirement]:
    """Return what a dependency group asks for, with the groups that it includes."""
    found: list[Requirement] = []
    for item in PYPROJECT["dependency-groups"][group]:
        if isinstance(item, str):
            found.append(Requirement(item))
        else:
            found += requirements(item["include-group"])
    return found


def test_the_version_is_that_of_the_distribution() -> None:
    assert distribution("kvpool").version == kvpool.__version__


@pytest.mark.parametrize("point", entry_points(group="kvpool.backends"), ids=lambda one: one.name)
def test_entry_points_name_modules_that_are_there(point: Any) -> None:
    assert find_spec(point.value) is not None


def test_our_three_backends_are_declared() -> None:
    names = {point.name for point in entry_points(group="kvpool.backends")}
    assert names >= {"numpy", "mmap", "ctypes"}


@pytest.mark.parametrize("module", ["kvpool", "kvpool_numpy", "kvpool_mmap", "kvpool_ctypes"])
def test_every_package_says_that_it_is_typed(module: str) -> None:
    origin = importlib.import_module(module).__file__
    assert origin is not None
    assert Path(origin).with_name("py.typed").exists()


def test_classifiers_name_the_pythons_that_we_support() -> None:
    classifiers = PYPROJECT["project"]["classifiers"]
    versions = [text.rpartition(" ")[2] for text in classifiers if re.search(r":: 3\.\d+$", text)]
    assert tuple(versions) == SUPPORTED
    assert PYPROJECT["project"]["requires-python"] == f">={SUPPORTED[0]}"


def check_versions(wanted: list[Requirement], versions: dict[str, list[str]]) -> None:
    """Check that there is a version of each requirement, and that the requirement allows it."""
    assert wanted
    for requirement in wanted:
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement} is not locked: run `nox -s lock`"
        assert all(requirement.specifier.contains(version) for version in found), requirement


@pytest.mark.parametrize("name", [*LOCKS, "min-python"])
def test_a_lock_holds_what_is_asked_for(name: str) -> None:
    group, runtime = LOCKS.get(name, ("test", True))
    wanted = (requirements(group) if group else []) + (RUNTIME if runtime else [])
    check_versions(wanted, locked(name))


@pytest.mark.parametrize(
    ("file", "group"), [(file, group) for file, groups in CONSTRAINED.items() for group in groups]
)
def test_the_constraints_hold_what_a_group_asks_for(file: str, group: str) -> None:
    check_versions(requirements(group), locked(file))


def test_the_constraints_and_the_tests_have_the_same_versions() -> None:
    constraints, tests = locked("constraints"), locked("test")
    both = constraints.keys() & tests.keys()
    assert {name: constraints[name] for name in both} == {name: tests[name] for name in both}


def test_the_lowest_versions_are_the_bounds_that_we_declare() -> None:
    versions = locked("min-python")
    for requirement in RUNTIME:
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        (lowest,) = versions[canonicalize_name(requirement.name)]
        assert lowest == bound.version or lowest.startswith(f"{bound.version}."), requirement


@pytest.mark.parametrize(
    "lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda lock: lock.name
)
def test_a_lock_names_no_host_and_no_path(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert ("--hash=sha256:" in text) is (lock.stem not in CONSTRAINED)
    assert "://" not in text
    assert "index-url" not in text
    assert re.search(r"(^|\s)/\w", text) is None


def test_the_last_job_of_the_workflow_needs_all_others() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci-core.yml").read_text(encoding="utf-8"))
    *others, last = workflow["jobs"]
    job = workflow["jobs"][last]
    assert job["name"] == "CI Core Success"
    assert job["if"] == "always()"
    assert sorted(job["needs"]) == sorted(others)
    script = job["steps"][-1]["run"]
    for other in others:
        assert f'test "${{{{ needs.{other}.result }}}}" = success' in script


def test_the_workflow_runs_where_something_is_about_to_land() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci-core.yml").read_text(encoding="utf-8"))
    events = workflow[True]  # YAML reads the word `on` so
    assert {"push", "pull_request", "merge_group"} <= set(events)
    assert "edited" in events["pull_request"]["types"]  # another base is another merge
    assert workflow["concurrency"]["cancel-in-progress"] != "true"
    group = workflow["concurrency"]["group"]
    assert "refs/heads/main' && github.sha" in group  # no run on the trunk ends another one
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["fetch-depth"] for step in checkouts] == [0] * len(checkouts)
    assert workflow["jobs"]["optional"]["strategy"]["matrix"]["session"] == [
        "integration",
        "transformers",
    ]


def test_the_workflow_makes_a_record_of_the_gates_and_its_key_does_not_stay() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci-core.yml").read_text(encoding="utf-8"))
    steps = {
        step.get("name", step.get("uses")): step for step in workflow["jobs"]["gates"]["steps"]
    }
    names = list(steps)
    assert names.index("The six gates") < names.index("A record of them")
    record = steps["A record of them"]
    assert "-s stack -- record" in record["run"]
    assert "secrets." not in record["run"]  # a secret in a command would be in its text
    assert record["env"]["SIGNING_KEY"] == "${{ secrets.GATES_SIGNING_KEY }}"
    assert names.index("A record of them") < names.index("No key stays")
    upload = workflow["jobs"]["gates"]["steps"][-1]
    assert upload["uses"].startswith("actions/upload-artifact@")
    for step in (record, steps["No key stays"], upload):
        assert step["if"] == "always()"
    assert "signing-key" not in upload["with"]["path"]
    for step in workflow["jobs"]["gates"]["steps"]:
        assert "${{ github.head_ref" not in step.get("run", "")  # anybody may name a branch


def test_the_workflow_tests_every_python_on_three_systems() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci-core.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    assert tuple(matrix["python"]) == SUPPORTED
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_the_noxfile_is_a_manual_with_a_line_for_each_gate() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    for gate in GATES:
        assert re.search(rf'def {gate}_?\(.*\n    """Gate: ', noxfile), gate
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for gate in GATES:
        assert f"| `{gate}` |" in contributing
