"""How the pages are built: Sphinx, Markdown by MyST, docstrings by numpydoc.

The reference follows the code: it documents every public module that is there and every command,
so a new name needs no edit here. What an internal module defines is documented in the module that
exports it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from sphinx.errors import ExtensionError
from sphinx.ext.autodoc import mock
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from typer.cli import get_docs_for_click
from typer.main import get_command

from kvpool.cli import app as command_line

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

LOGGER = logging.getLogger(__name__)

project = "kvpool"
author = "The kvpool authors"
copyright = f"{author}. Apache License 2.0"
version = release = version_of("kvpool")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"kvpool {version}"
html_static_path = ["_static"]
html_css_files = ["kvpool.css"]
html_search_scorer = str(Path(__file__).parent / "_static/scorer.js")
html_copy_source = False  # each page links to its source in the repository
REPOSITORY = "https://github.com/kvpool/kvpool"
BRANCH = "main"
html_theme_options = {
    "source_repository": f"{REPOSITORY}/",  # two links on each page
    "source_branch": BRANCH,
    "source_directory": "docs/",
    "footer_icons": [
        {"name": "GitHub", "url": REPOSITORY, "html": "The repository", "class": "kv-repository"}
    ],
}

# What is copied of a block is what one types: without prompts, and without the output.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

# Python's names come from a kept inventory (its classes, functions and modules), so that a build
# needs no network. Read the Docs has one, and links the names of the other libraries as well.
intersphinx_mapping: dict[str, tuple[str, str | None]] = {
    "python": ("https://docs.python.org/3", "inventories/python.inv"),
}
if os.environ.get("READTHEDOCS") == "True":
    intersphinx_mapping |= {
        "numpy": ("https://numpy.org/doc/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "transformers": ("https://huggingface.co/docs/transformers/main/en", None),
    }
intersphinx_disabled_reftypes = ["std:*"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# `name` in a docstring links to what it names, where there is such a thing. What the text
# calls kvpool.something must be there; other names may be parameters or another library's.
# A type variable (one capital letter) has no page, and neither has what is internal.
default_role = "py:obj"
nitpick_ignore_regex = [
    (r"py:.*", r"(?!kvpool).*"),
    (r"py:.*", r"kvpool.*\.[A-Z]"),
    (r"py:.*", r"kvpool\..*\b_.*"),
]

toc_object_entries_show_parents = "hide"  # the list beside a page is narrow
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = [
    "llama_cpp",
    "lmcache",
    "mooncake",
    "sglang",
    "tokenizers",
    "torch",
    "transformers",
    "vllm",
]
numpydoc_show_class_members = False


NOT_A_LIBRARY = {"kvpool.cli"}  # its reference is the page of its commands
BACKENDS = ("kvpool_ctypes", "kvpool_mmap", "kvpool_numpy")


def _public_modules(package: str) -> list[str]:
    """Return a package, its public modules, and those of its subpackages."""
    public = [package]
    for one in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        if not one.name.rpartition(".")[2].startswith("_") and one.name not in NOT_A_LIBRARY:
            public += _public_modules(one.name) if one.ispkg else [one.name]
    return public


def _homes(modules: list[str]) -> dict[str, dict[str, str]]:
    """Return the classes and functions that modules export, each with the module it names.

    Each is documented with that module, and the others point there. What a backend exports is
    documented with the backend.
    """
    homes: dict[str, dict[str, str]] = {}
    for name in modules:
        module = importlib.import_module(name)
        exported = {one: getattr(module, one) for one in getattr(module, "__all__", ())}
        homes[name] = {
            one: value.__module__ if value.__module__ in modules else name
            for one, value in exported.items()
            if inspect.isclass(value) or inspect.isfunction(value)
        }
    return homes


def _files(front: str) -> list[Path]:
    """Return the file of a public module, and of the internal modules that it is the front of."""
    file = Path(inspect.getfile(importlib.import_module(front)))
    if file.name == "__init__.py":
        behind = sorted(file.parent.rglob("_[!_]*.py")) + sorted(file.parent.glob("_[!_]*/**/*.py"))
    else:
        behind = sorted(file.with_name(f"_{file.stem}").glob("*.py"))
    return list(dict.fromkeys((file, *behind)))


def _sources(front: str) -> str:
    """Return the text of those files."""
    return "\n".join(file.read_text(encoding="utf-8") for file in _files(front))


PUBLIC = [*_public_modules("kvpool"), *BACKENDS]
with mock(autodoc_mock_imports):
    HOMES = _homes(PUBLIC)
# Sphinx looks in the module that a class names for the order of its members and the texts of its
# attributes. A class of an internal module names the front.
for front in PUBLIC:
    if front != "kvpool":
        ModuleAnalyzer.cache["module", front] = ModuleAnalyzer.for_string(_sources(front), front)

# Files at the root of the repository, where its readers look for them, and their pages here.
DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "CONTRIBUTING.md": DOCS / "project/contributing.md",
    ROOT / "CHANGELOG.md": DOCS / "project/changelog.md",
    ROOT / "RELEASING.md": DOCS / "project/releasing.md",
    ROOT / "SECURITY.md": DOCS / "project/security.md",
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


def _with_drawings(page: Path, text: str) -> str:
    """Put drawings into the text, where they follow the page's switch of light and dark.

    Elsewhere they are pictures. What they show is in their own words, for screen readers.
    """

    def drawing(match: re.Match[str]) -> str:
        file = page.parent / match[1]
        svg = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not svg.startswith('<svg class="kv"'):
            return match[0]
        return f"```{{raw}} html\n{svg}```"

    return re.sub(r"^!\[[^\]]*\]\(([^)\s:]+\.svg)\)$", drawing, text, flags=re.MULTILINE)


def _commands() -> str:
    """Return what `--help` says of each command, as Markdown with a heading for each."""
    command = get_command(command_line)
    context = typer.Context(command, info_name="kvpool")
    text = get_docs_for_click(obj=command, ctx=context, name="kvpool", indent=1)
    # The lists of subcommands cut what their own headings say in full.
    return re.sub(r"^\*\*Commands\*\*:\n\n(?:\* .*\n)+\n", "", text, flags=re.MULTILINE)


def _module(match: re.Match[str]) -> str:
    """Return the reference of a module: its own names, and where those are that it only exports."""
    name = match[1]
    elsewhere = {one: home for one, home in HOMES[name].items() if home != name}
    options = f"   :exclude-members: {', '.join(elsewhere)}\n" if elsewhere else ""
    text = f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n"
    text += f"   :show-inheritance:\n{options}```\n"
    if elsewhere:
        links = (f"{{py:obj}}`{one} <{home}.{one}>`" for one, home in sorted(elsewhere.items()))
        text += f"\nAlso importable from here: {', '.join(links)}.\n"
    return text


def _changes() -> str:
    """Return the section of the changelog that the fragments of `changelog.d` make together."""
    command = ["towncrier", "build", "--draft", "--version", "Unreleased", "--date", ""]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ExtensionError(f"towncrier cannot make a changelog:\n{done.stderr}{done.stdout}")
    _, _, changes = done.stdout.partition("\n")
    return f"## Unreleased\n{changes}"


def _read(_app: Sphinx, name: str, content: list[str]) -> None:
    """Put in place what pages name: files as their text, the commands, the latest changes."""
    page = DOCS / f"{name}.md"

    def text_of(match: re.Match[str]) -> str:
        file = ROOT / match[1]
        return _with_links_for(page, file.read_text(encoding="utf-8"), file.parent)

    text = _with_drawings(page, _with_links_for(page, content[0], page.parent))
    text = re.sub(r"^<!-- text of: (\S+) -->$", text_of, text, flags=re.MULTILINE)
    text = re.sub(r"^<!-- module: (\S+) -->$", _module, text, flags=re.MULTILINE)
    text = re.sub(r"^<!-- commands -->$", lambda _: _commands(), text, flags=re.MULTILINE)
    marker = r"^<!-- towncrier: a release goes below -->$"
    content[0] = re.sub(marker, lambda _: _changes(), text, flags=re.MULTILINE)


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


def _bases(_app: Sphinx, _name: str, _class: type, _options: object, bases: list[type]) -> None:
    """Leave internal classes out of the bases of a class."""
    public = [one for one in bases if "._" not in f"{one.__module__}.{one.__name__}"]
    bases[:] = public or [object]


def _reference(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Any) -> Any:
    """Find what is documented in one module under the names that other modules export it by.

    `KVCacheManager` and `kvpool.KVCacheManager` are `kvpool.manager.KVCacheManager`.
    """
    target = str(node.get("reftarget"))
    module = max((one for one in PUBLIC if target.startswith(f"{one}.")), key=len, default="kvpool")
    name, dot, rest = target.removeprefix(f"{module}.").partition(".")
    if node.get("refdomain") != "py" or name not in HOMES[module]:
        return None
    found = f"{HOMES[module][name]}.{name}{dot}{rest}"
    python = env.domains.python_domain
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", found, node, content)


def _every_name_is_there(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page of the reference documents."""
    documented = env.domains.python_domain.objects
    for module, names in HOMES.items():
        for name, home in names.items():
            if home == module and f"{module}.{name}" not in documented:
                LOGGER.warning("%s.%s is on no page of the reference", module, name)


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return where the source of a name is in the repository; None if it has none of its own."""
    if domain != "py" or info["module"] in autodoc_mock_imports:
        return None
    value: Any = sys.modules.get(info["module"])
    for part in info["fullname"].split("."):
        value = getattr(value, part, None)
    value = inspect.unwrap(getattr(value, "fget", None) or value)
    if inspect.isclass(value):
        file, line = _class_lines(info["module"]).get(info["fullname"], ("", 0))
    elif code := getattr(value, "__code__", None):
        file, line = code.co_filename, code.co_firstlineno
    else:
        return None
    parts = Path(file).parts
    package = info["module"].partition(".")[0]
    if package not in parts:  # made by a decorator, such as the methods of a dataclass
        return None
    last = len(parts) - parts[::-1].index(package) - 1
    folder = "" if package == "kvpool" else "backends/"
    return f"{REPOSITORY}/blob/{BRANCH}/{folder}{'/'.join(parts[last:])}#L{line}"


@functools.cache
def _class_lines(front: str) -> dict[str, tuple[str, int]]:
    """Return the file and line of each class that a public module or what is behind it defines.

    Such a class names the front, where `inspect` does not find it.
    """
    return {
        node.name: (str(file), node.lineno)
        for file in _files(front)
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of what is done here while it reads; pages can be read in several processes."""
    app.connect("autodoc-process-bases", _bases)
    app.connect("missing-reference", _reference)
    app.connect("source-read", _read)
    app.connect("autodoc-process-signature", _signature)
    app.connect("env-check-consistency", _every_name_is_there)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
