"""What the tool has to know of a repository: the table ``[tool.milestones]`` of its pyproject.toml.

Every key has a default, so that a repository laid out as the defaults say needs no table.
"""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from milestones.errors import StackError

__all__ = ["Settings", "current", "load"]


class Settings(BaseModel):
    """The table ``[tool.milestones]``; all paths are relative to the root of the repository."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pages: str = Field(default="docs/stack", description="Where manifests, pages and records are.")
    command: str = Field(
        default="nox -s stack --",
        description="How the tool is started here; stands before each command.",
    )
    forge: str = Field(
        default="gh", description="The adapter of the forge: `gh`, `bare`, or that of a plugin."
    )
    script: str = Field(
        default="scripts/ci-local.sh",
        description="Runs the gates with bash: all of them, or with the argument `quick` some.",
    )
    gates: tuple[str, ...] = Field(
        default=("build", "test", "lint", "format", "docs", "min_python"),
        min_length=1,
        description="The names of all gates; a record that lacks one is not green.",
    )
    reads_pages: tuple[str, ...] = Field(
        default=("docs",),
        description="Gates that read what is in `pages`: they run again where only that changed.",
    )
    definitions: tuple[str, ...] = Field(
        default=(
            "noxfile.py",
            "scripts/ci-local.sh",
            "scripts/gates",
            "pyproject.toml",
            "conftest.py",
            ".github",
        ),
        description="Files and directories that define what the gates are.",
    )
    former_definitions: tuple[tuple[str, ...], ...] = Field(
        default=(("noxfile.py", "scripts/ci-local.sh", "scripts/gates"),),
        description="What older records have hashed as the definitions.",
    )
    locks: tuple[str, ...] = Field(
        default=("requirements",), description="Where the lock files are."
    )
    pythons: tuple[str, ...] = Field(
        default=("3.11", "3.12", "3.13", "3.14"),
        description="The Pythons that the gates choose among.",
    )
    interpreters: tuple[str, ...] = Field(
        default=(),
        description="A command that prints the versions of those at hand as a JSON object, such "
        'as {"3.11": "3.11.7"}. `python` stands for the Python that runs the tool. Without it '
        "the tool looks on PATH.",
    )
    signers: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = Field(
        default=(),
        description="Public Ed25519 keys, raw and hexadecimal, whose signatures of records count.",
    )
    environments: tuple[str, ...] = Field(
        default=(".venv-ci", ".nox/*"), description="Where the gates make their environments."
    )
    results_variable: str = Field(
        default="KVPOOL_GATES_JSON", description="Tells the script where to write its results."
    )
    junit_variable: str = Field(
        default="KVPOOL_JUNIT_DIR",
        description="Names a directory; the XML files that gates write there are kept.",
    )
    excluded_variable: str = Field(
        default="KVPOOL_EXCLUDED_TESTS",
        description="Tells the gates which tests to leave out, one a line.",
    )
    only_variable: str = Field(
        default="KVPOOL_ONLY_GATES",
        description="Tells the script which gates to run, with spaces between; none: all. A "
        "script that does not know it runs all of them.",
    )
    environment_signs: tuple[str, ...] = Field(
        default=(
            r"Command .*pip install .*-r \S+ failed with exit code \d+",
            r"Python \S+ is needed and no interpreter of that version runs here",
            r"Python interpreter \S+ not found",
            r".*No space left on device",
            r".*Temporary failure in name resolution",
        ),
        description="Regular expressions; where one fits in the log of a gate that has failed, the "
        "machine kept that gate from judging the code.",
    )
    scrub: tuple[str, ...] = Field(
        default=("KVPOOL",), description="Variables that begin so do not reach the gates."
    )

    @property
    def directory(self) -> Path:
        """Where manifests, pages and records are."""
        return Path(self.pages)

    @property
    def records(self) -> Path:
        """Where records of merged milestones are exported to."""
        return self.directory / "records"


def current() -> Settings:
    """Return the settings of the repository that the current directory is in.

    Raises
    ------
    StackError
        The table is not as it should be.
    """
    here = Path.cwd()
    for directory in (here, *here.parents):
        path = directory / "pyproject.toml"
        if path.exists():
            return _cached(path, path.stat().st_mtime_ns)
        if (directory / ".git").exists():
            break
    return Settings()


@functools.lru_cache(maxsize=8)
def _cached(path: Path, _changed: int) -> Settings:
    """Read a file once; when it was last written tells whether it is still the same."""
    return load(path)


def load(path: Path) -> Settings:
    """Read the table of a file.

    Raises
    ------
    StackError
        The table is not as it should be; the text names file and key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return Settings.model_validate(document.get("tool", {}).get("milestones", {}))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StackError(f"{path}: is not a TOML file: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(["tool.milestones", *map(str, first["loc"])])
        raise StackError(f"{path}: {key}: {first['msg']}, not {first['input']!r}") from error
