"""How the pages are built: Sphinx, Markdown by MyST, docstrings by numpydoc.

The reference follows the code: it documents every public module that is there and every command,
so a new name needs no edit here.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from kvpool.cli import app as command_line

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "kvpool"
author = "The kvpool authors"
copyright = f"{author}. Apache License 2.0"
version = release = version_of("kvpool")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"kvpool {version}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# `name` in a docstring links to what it names, where there is such a thing. What the text
# calls kvpool.something must be there; other names may be parameters or another library's.
# A type variable (one capital letter) has no page.
default_role = "py:obj"
nitpick_ignore_regex = [(r"py:.*", r"(?!kvpool).*"), (r"py:.*", r"kvpool.*\.[A-Z]")]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["torch", "transformers"]
numpydoc_show_class_members = False


NOT_A_LIBRARY = {"kvpool.cli"}  # its reference is the page of its commands


# Packages that users import from: what they export stands on their pages.
FRONTS = (
    "kvpool",
    "kvpool.entry",
    "kvpool.eviction",
    "kvpool.layout",
    "kvpool.ledger",
    "kvpool.manager",
    "kvpool.plugins",
    "kvpool.pool",
    "kvpool.receipts",
    "kvpool.replay",
    "kvpool.testing",
)


def _names_by_home() -> dict[str, list[tuple[str, str]]]:
    """Return front and name of what the fronts export, by the module that defines it.

    It stands on the page of its front, and the page of the module that defines it points there.
    """
    homes: dict[str, list[tuple[str, str]]] = {}
    for front in FRONTS:
        package = importlib.import_module(front)
        for name in package.__all__:
            exported = getattr(package, name)
            if inspect.isclass(exported) or inspect.isfunction(exported):
                homes.setdefault(exported.__module__, []).append((front, name))
    return homes


def _public_modules(package: str) -> dict[str, list[str]]:
    """Return the public modules of a package and of its subpackages, by package."""
    path = importlib.import_module(package).__path__
    found = pkgutil.iter_modules(path, f"{package}.")
    modules = [one for one in found if not one.name.rpartition(".")[2].startswith("_")]
    tree = {package: [one.name for one in modules if one.name not in NOT_A_LIBRARY]}
    for one in modules:
        if one.ispkg and one.name not in NOT_A_LIBRARY:
            tree |= _public_modules(one.name)
    return tree


autosummary_context = {"exported": _names_by_home(), "submodules": _public_modules("kvpool")}

# Files at the root of the repository, where its readers look for them, and their pages here.
DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "CONTRIBUTING.md": DOCS / "project/contributing.md",
    ROOT / "CHANGELOG.md": DOCS / "project/changelog.md",
}


def _with_links_for(page: Path, text: str, home: Path) -> str:
    """Let the relative links of a text that lives in `home` hold on a page.

    A link to what is in the repository and is no page becomes plain text. A link to nothing
    stays as it is, and so is a warning.
    """

    def link(match: re.Match[str]) -> str:
        picture, words, destination, anchor = match.groups(default="")
        target = Path(os.path.normpath(home / destination))
        target = PAGES.get(target, target)
        if target.is_relative_to(DOCS) and (target.suffix == ".md" or picture):
            path = Path(os.path.relpath(target, page.parent)).as_posix()
            return f"{picture}[{words}]({path}{anchor})"
        return words if target.exists() and not picture else match[0]

    return re.sub(r"(!?)\[([^\]]+)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", link, text)


def _commands() -> str:
    """Return what `--help` says of each command, as Markdown with a heading for each."""
    command = get_command(command_line)
    context = typer.Context(command, info_name="kvpool")
    text = get_docs_for_click(obj=command, ctx=context, name="kvpool", indent=1)
    # The lists of subcommands cut what their own headings say in full.
    return re.sub(r"^\*\*Commands\*\*:\n\n(?:\* .*\n)+\n", "", text, flags=re.MULTILINE)


def _read(_app: Sphinx, name: str, content: list[str]) -> None:
    """Put the files that a page names as its text, and the commands, in their place."""
    page = DOCS / f"{name}.md"

    def text_of(match: re.Match[str]) -> str:
        file = ROOT / match[1]
        return _with_links_for(page, file.read_text(encoding="utf-8"), file.parent)

    text = _with_links_for(page, content[0], page.parent)
    text = re.sub(r"^<!-- text of: (\S+) -->$", text_of, text, flags=re.MULTILINE)
    content[0] = re.sub(r"^<!-- commands -->$", lambda _: _commands(), text, flags=re.MULTILINE)


def _signature(
    _app: Sphinx,
    _what: str,
    _name: str,
    documented: object,
    _options: object,
    signature: str | None,
    *_: object,
) -> tuple[str, None] | None:
    """Leave the bounds of fields out of the signatures of records; their schema has them."""
    if not (isinstance(documented, type) and issubclass(documented, msgspec.Struct)):
        return None
    fields = ", ".join(documented.__struct_fields__)
    return f"(*, {fields})" if (signature or "").startswith("(*") else f"({fields})", None


def setup(app: Sphinx) -> None:
    """Tell Sphinx of what is done here while it reads."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-signature", _signature)
