"""Which tier a command is about: a URL, or the directory of a tier on a disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import quote

import typer

from kvpool.errors import InvalidTierError
from kvpool.tiers import (
    LEVEL_OPTIONS,
    CodecChain,
    Tier,
    open_codec,
    open_tier,
    path_of,
    registry,
    split_url,
    without_secrets,
)
from kvpool.tiers.disk import DEFAULT_CAPACITY

__all__ = ["Opened", "Place", "PlaceArgument", "opened"]

_DATA = "data.mdb"


class Place(NamedTuple):
    """Where a tier is, in the parts of its URL.

    Parameters
    ----------
    scheme, url : str
        The URL is without options.
    options : dict of str to str
    """

    scheme: str
    url: str
    options: dict[str, str]

    @property
    def name(self) -> str:
        """The URL without secrets and options."""
        return without_secrets(self.url)

    @property
    def path(self) -> Path | None:
        """The directory of the store; None if it is not on this machine."""
        return path_of(self.url) if self.scheme in {"disk", "file"} else None

    @classmethod
    def of(cls, text: str) -> Place:
        """Return the place that a URL or a path names.

        Raises
        ------
        typer.BadParameter
            It is neither the URL of a tier nor a directory with one.
        """
        is_path = text.startswith(("/", ".", "~")) or Path(text).is_dir()
        scheme = text.partition(":")[0]
        if not is_path and "://" not in text and scheme not in registry.names():
            raise typer.BadParameter(
                f"there is no directory {text!r}; give one, or a URL such as disk:/path"
            )
        url = "disk:" + quote(str(Path(text).expanduser())) if is_path else text
        try:
            place = cls(*split_url(url))
            place.check()
        except InvalidTierError as error:
            raise typer.BadParameter(str(error)) from error
        return place

    def check(self) -> None:
        """Raise `typer.BadParameter` if no store is there; a look at one must not make it."""
        path = self.path
        if path is None:
            return
        if not path.is_dir():
            raise typer.BadParameter(f"there is no directory {path}")
        if self.scheme == "disk" and not (path / _DATA).exists():
            raise typer.BadParameter(f"{path} is not a tier: it has no file {_DATA}")


PlaceArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL_OR_PATH",
        show_default=False,
        help="URL of a tier, or the directory of one on a disk.",
    ),
]


class Opened(NamedTuple):
    """A tier that is open, and the codec of its chunks."""

    tier: Tier
    codec: CodecChain


@contextlib.contextmanager
def opened(place: Place, *, writing: bool) -> Iterator[Opened]:
    """Open a tier for a ``with`` block.

    Parameters
    ----------
    place : Place
    writing : bool
        If not, a tier on a disk is opened for reading alone: a look at its values does not count as
        a use of them, and nothing in it changes.

    Raises
    ------
    KVPoolError
        As `open_tier` and `open_codec` raise it.
    """
    options = dict(place.options)
    codec = open_codec(options.pop("codec", "none"))
    for name in LEVEL_OPTIONS:
        options.pop(name, None)
    if place.scheme == "disk":
        if not writing:
            options["readonly"] = "yes"
        options.setdefault("capacity", str(_room_for(place)))
    with open_tier(place.url, options) as tier:
        yield Opened(tier, codec)


def _room_for(place: Place) -> int:
    """Return a capacity for a tier on a disk that its file does not exceed."""
    path = place.path
    size = 0 if path is None else (path / _DATA).stat().st_size
    return max(DEFAULT_CAPACITY, size + size // 4)
