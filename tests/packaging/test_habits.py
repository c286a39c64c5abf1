"""The files that people and services around the repository read."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.docs_pages import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FRAGMENTS = sorted((ROOT / "changelog.d").iterdir())
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = "https://github.com/kvpool/kvpool"
# A job may only read, but for these.
WRITES = {
    ("release.yml", "publish"): {"id-token": "write"},
    ("release.yml", "announce"): {"contents": "write"},
}


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(read(workflow))["jobs"]
    return found


def locked(name: str, lock: str) -> str:
    match = re.search(rf"^{name}==(\S+)", read(f"requirements/{lock}.txt"), re.MULTILINE)
    assert match
    return match[1]


def hooks() -> dict[str, Any]:
    config = yaml.safe_load(read(".pre-commit-config.yaml"))
    return {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_one_commit_with_its_version_beside_it(workflow: Path) -> None:
    uses = re.findall(r"^\s*-? *uses: (.*)$", read(workflow), re.MULTILINE)
    assert uses
    for use in uses:
        assert re.fullmatch(r"[\w-]+(/[\w-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use


def test_an_action_is_the_same_commit_everywhere() -> None:
    found: dict[str, set[str]] = {}
    for workflow in WORKFLOWS:
        for name, commit in re.findall(r"uses: (\S+)@(\S+)", read(workflow)):
            found.setdefault(name, set()).add(commit)
    assert {name: commits for name, commits in found.items() if len(commits) > 1} == {}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_not_write_but_where_it_must(workflow: Path) -> None:
    assert yaml.safe_load(read(workflow))["permissions"] in ({}, {"contents": "read"})
    for name, job in jobs(workflow).items():
        asked = job.get("permissions", {})
        writes = {scope: level for scope, level in asked.items() if level != "read"}
        assert writes == WRITES.get((workflow.name, name), {}), name


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_checkout_leaves_no_credentials_behind_and_a_job_ends(workflow: Path) -> None:
    for name, job in jobs(workflow).items():
        assert job["timeout-minutes"] <= 60, name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, name


def test_a_release_is_published_by_a_trusted_publisher_after_a_review() -> None:
    publish = jobs(ROOT / ".github/workflows/release.yml")["publish"]
    assert publish["environment"]["name"] == "pypi"
    assert publish["needs"] == ["build"]
    assert "password" not in read(".github/workflows/release.yml")


def test_dependabot_sees_the_actions_and_the_lock_files() -> None:
    updates = yaml.safe_load(read(".github/dependabot.yml"))["updates"]
    places = {one["package-ecosystem"]: one["directory"] for one in updates}
    assert places == {"github-actions": "/", "pip": "/requirements"}


def test_hooks_have_the_versions_of_the_gates() -> None:
    found = hooks()
    for name in ("ruff-check", "ruff-format"):
        assert found[name]["additional_dependencies"] == [f"ruff=={locked('ruff', 'format')}"]
    assert found["mypy"]["stages"] == ["manual"]


def test_hooks_run_one_exact_version_of_each_tool() -> None:
    for name, hook in hooks().items():
        if name != "mypy":  # nox takes mypy from the lock file
            assert all("==" in one for one in hook["additional_dependencies"]), name


def test_the_editors_know_the_length_of_a_line() -> None:
    config = configparser.ConfigParser()
    config.read_string(f"[root]\n{read('.editorconfig')}")
    assert config["*"]["max_line_length"] == str(PYPROJECT["tool"]["ruff"]["line-length"])


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_a_form_asks_for_something(form: str) -> None:
    body = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{form}.yml"))["body"]
    required = [one["id"] for one in body if one.get("validations", {}).get("required")]
    assert required
    assert len({one.get("id") for one in body}) == len(body)


@pytest.mark.parametrize("page", ["SECURITY.md", "CODE_OF_CONDUCT.md", "RELEASING.md"])
def test_the_pages_of_the_root_link_to_what_is_there(page: str) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", read(page))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_a_weakness_is_reported_in_private() -> None:
    assert "docs/threat-model.md" in read("SECURITY.md")
    assert f"{PROJECT}/security/advisories/new" in read("SECURITY.md")


def test_the_docs_are_built_as_the_gate_builds_them() -> None:
    config = yaml.safe_load(read(".readthedocs.yaml"))
    assert config["sphinx"] == {"configuration": "docs/conf.py", "fail_on_warning": True}
    assert {"requirements": "requirements/docs.txt"} in config["python"]["install"]


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.name)
def test_a_change_has_a_type_and_a_text(fragment: Path) -> None:
    if fragment.name in PYPROJECT["tool"]["towncrier"]["ignore"]:
        return
    types = "|".join(one["directory"] for one in PYPROJECT["tool"]["towncrier"]["type"])
    assert re.fullmatch(rf"[a-z0-9-]+\.({types})\.md", fragment.name)
    text = fragment.read_text(encoding="utf-8")
    assert text.strip()
    assert not text.startswith(("-", "*", "#"))


def test_a_release_has_its_place_in_the_changelog() -> None:
    marker = PYPROJECT["tool"]["towncrier"]["start_string"]
    assert read("CHANGELOG.md").count(marker) == 1


def test_links_of_the_readme_work_on_the_package_index() -> None:
    command = [sys.executable, "-m", "hatchling", "metadata"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    metadata = json.loads(done.stdout)
    text = metadata["readme"]["text"]
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert f"{PROJECT}/blob/main/docs/tutorial.md" in links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    pictures = re.findall(r"!\[[^\]]*\]\((\S+)\)", text)
    assert pictures
    for picture in pictures:
        assert picture.startswith("https://raw.githubusercontent.com/kvpool/kvpool/main/")
        assert (ROOT / picture.partition("/main/")[2]).is_file()
    assert metadata["urls"]["Source"] == PROJECT
