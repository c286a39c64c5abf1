"""Look at every source file that git has, or would take: so that no new file escapes a gate.

In a tree without git, as from an sdist, every file counts that is in no hidden directory.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = [
    "examples_problems",
    "python_files",
    "shell_files",
    "shell_problems",
    "silencing_problems",
    "write_program",
]

# Comments that keep a tool from saying what it has found.
_SILENCING = re.compile(
    r"#\s*(type:\s*ignore|noqa|ruff:\s*noqa|flake8:|mypy:|pyright:|pylint:|pragma:\s*no|nosec"
    r"|isort:)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHEBANG = re.compile(rb"#!\s*/\S*(/| )(ba|da)?sh\b")


def python_files(root: Path) -> list[str]:
    """Return every Python file, relative to the root."""
    return [name for name in _files(root) if name.endswith((".py", ".pyi"))]


def silencing_problems(root: Path) -> list[str]:
    """Return a line for each comment that silences a finding; the code has to change instead."""
    return [
        f"{name}:{line}: {text.strip()}: silences a finding; change the code instead"
        for name in python_files(root)
        for line, text in _comments(root / name)
        if _SILENCING.match(text)
    ]


def shell_files(root: Path) -> list[str]:
    """Return every shell script, relative to the root: by its name, or by its first line."""
    return [
        name
        for name in _files(root)
        if name.endswith((".sh", ".bash")) or _SHEBANG.match(_beginning(root / name))
    ]


def shell_problems(root: Path) -> list[str]:
    """Return what bash says of each shell script that it cannot read."""
    problems: list[str] = []
    for name in shell_files(root):
        order = ["bash", "-n", str(root / name)]
        done = subprocess.run(order, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            problems.append(f"{name}: {done.stderr.strip()}")
    return problems


def examples_problems(pages: Iterable[Path], oldest: str) -> list[str]:
    """Return a line for each Python block of a page that the oldest Python cannot read.

    Parameters
    ----------
    pages : iterable of Path
        Markdown files.
    oldest : str
        The oldest supported Python, as ``"3.11"``.
    """
    version = tuple(int(part) for part in oldest.split("."))
    problems: list[str] = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for block in _FENCE.finditer(text):
            try:
                ast.parse(block[1], feature_version=(version[0], version[1]))
            except SyntaxError as error:
                line = text.count("\n", 0, block.start(1)) + (error.lineno or 1)
                problems.append(f"{page}:{line}: not for Python {oldest}: {error.msg}")
    return problems


def write_program(page: Path, folder: Path) -> str:
    """Write the Python blocks of a page as one program, each on the lines that it has there.

    Parameters
    ----------
    page : Path
        A Markdown file whose blocks go on from each other.
    folder : Path
        Where the program is written.

    Returns
    -------
    str
        The path of the program.
    """
    text = page.read_text(encoding="utf-8")
    program = ""
    for block in _FENCE.finditer(text):
        before = text.count("\n", 0, block.start(1)) - program.count("\n")
        program += "\n" * before + block[1]
    file = folder / f"{page.stem}_page.py"
    file.write_text(program, encoding="utf-8")
    return str(file)


def _files(root: Path) -> list[str]:
    order = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(order, cwd=root, capture_output=True, check=True).stdout
        names: Sequence[str] = [name for name in listed.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [path.relative_to(root).as_posix() for path in root.rglob("*")]
        names = [name for name in names if not re.search(r"(^|/)(\.(?!ci/)|_build/)", name)]
    return sorted(name for name in set(names) if (root / name).is_file())


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(80)


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each comment; a string that looks like one is none."""
    text = path.read_text(encoding="utf-8")
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    except (tokenize.TokenError, SyntaxError):
        return  # ruff says what is wrong with it
