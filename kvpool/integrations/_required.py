"""`required`: the package that an integration needs, in a release that it is tested with."""

from __future__ import annotations

from importlib import import_module, metadata
from itertools import takewhile

__all__ = ["required"]


def required(
    what: str,
    module: str,
    extra: str,
    *,
    distribution: str | None = None,
    lowest: tuple[int, ...] = (),
    below: tuple[int, ...] = (),
) -> None:
    """Import a module, and check the release that it is of.

    Parameters
    ----------
    what : str
        What needs it, in the plural, for messages: "the caches of llama.cpp".
    module : str
        Its name.
    extra : str
        The extra of kvpool that installs it.
    distribution : str, optional
        The name of the package that has the module [default: that of the module].
    lowest, below : tuple of int
        The releases that are tested: from the first, up to the second, which is not one of them
        [default: each].

    Raises
    ------
    ImportError
        If the module cannot be imported, or is of another release.

    Notes
    -----
    A build without metadata has no release that could be known: it is accepted.
    """
    package = distribution or module
    try:
        import_module(module)
    except ImportError as error:
        raise ImportError(f'{what} need {package}: install "kvpool[{extra}]" ({error})') from error
    if not (lowest and below):
        return
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return
    if not lowest <= _release(found) < below:
        raise ImportError(
            f"{what} are tested with {package} from {_text(lowest)} up to {_text(below)}, "
            f"and {found} is installed"
        )


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: (5, 24) of ``5.24.dev0``."""
    release = version.split("+", maxsplit=1)[0].split(".")
    return tuple(int(part) for part in takewhile(str.isdigit, release))


def _text(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))
