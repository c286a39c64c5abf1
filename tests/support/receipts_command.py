"""The command ``kvpool receipts`` as a function."""

from __future__ import annotations

from dataclasses import dataclass

from typer.testing import CliRunner

from kvpool.cli import app

__all__ = ["Done", "run"]


@dataclass(frozen=True)
class Done:
    """What a command printed, and with which exit code it ended."""

    exit_code: int
    stdout: str
    stderr: str


def run(*arguments: object, columns: int = 80) -> Done:
    """Run the command; an error of kvpool is raised, as `kvpool.cli.main` expects it."""
    runner = CliRunner(env={"COLUMNS": str(columns), "TERM": "dumb"})
    result = runner.invoke(app, ["receipts", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)
