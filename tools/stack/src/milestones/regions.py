"""Pages with marked regions: what is between the marks is generated, the rest is people's.

A region begins with ``<!-- stack:NAME -->`` and ends with ``<!-- /stack:NAME -->``, each on a
line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from milestones.errors import StackError

__all__ = ["RegionError", "mark", "names", "replace"]

_MARK = re.compile(r"^<!-- (/?)stack:([a-z0-9-]+) -->$", re.MULTILINE)


class RegionError(StackError):
    """The marks of a page do not fit together."""


def mark(name: str, text: str) -> str:
    """Put marks around a text."""
    return f"<!-- stack:{name} -->\n{text.strip()}\n<!-- /stack:{name} -->"


def names(page: str) -> list[str]:
    """Return the names of the regions of a page.

    Raises
    ------
    RegionError
        A mark is missing, repeated, or inside another region.
    """
    found: list[str] = []
    is_open = ""
    for ending, name in _MARK.findall(page):
        if ending and name != is_open:
            raise RegionError(f"<!-- /stack:{name} --> ends what did not begin")
        if not ending and is_open:
            raise RegionError(f"<!-- stack:{name} --> begins inside of {is_open}")
        if not ending and name in found:
            raise RegionError(f"<!-- stack:{name} --> is there twice")
        if not ending:
            found.append(name)
        is_open = "" if ending else name
    if is_open:
        raise RegionError(f"<!-- stack:{is_open} --> does not end")
    return found


def replace(page: str, regions: Mapping[str, str]) -> str:
    """Return a page with the text of its regions replaced, and nothing else.

    Parameters
    ----------
    page : str
        The page as it is.
    regions : mapping
        The text of each region, by name. All of them must be in the page.

    Raises
    ------
    RegionError
        The marks do not fit together, or are not those of the regions.
    """
    present = set(names(page))
    if missing := [name for name in regions if name not in present]:
        raise RegionError(f"<!-- stack:{missing[0]} --> is missing")
    if unknown := sorted(present - set(regions)):
        raise RegionError(f"<!-- stack:{unknown[0]} --> is not a region that is known here")
    for name, text in regions.items():
        start, end = f"<!-- stack:{name} -->\n", f"<!-- /stack:{name} -->"
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        page = f"{before}{mark(name, text)}{after}"
    return page
