"""File systems that are mounted for one program, in a namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["run_on"]


def run_on(file_system: str, folder: Path, program: str) -> list[str]:
    """Run a program with a file system that is mounted on a folder; return the lines it prints.

    Parameters
    ----------
    file_system : str
        Type and options, for example ``tmpfs -o size=1m``.
    folder : Path
        Where it is mounted; the program gets it as its argument.
    program : str
        In Python.
    """
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("this system has no user namespaces")
    shell = 'mount -t $1 none "$2" && exec "$3" -c "$4" "$2"'
    command = ["sh", "-c", shell, "sh", file_system, str(folder), sys.executable, program]
    done = subprocess.run([*unshare, *command], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()
