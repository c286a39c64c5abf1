from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kvpool.backends import create_arena
from kvpool.errors import InvalidOptionError
from kvpool.testing import ArenaConformance

if TYPE_CHECKING:
    from collections.abc import Mapping


class TestTemplateArena(ArenaConformance):
    backend = "template"


class TestTemplateArenaOnPages(ArenaConformance):
    backend = "template"
    options: ClassVar[Mapping[str, object]] = {"alignment": 4096}


@pytest.mark.parametrize("alignment", [0, 32, 100, "64", None])
def test_bad_alignment(alignment: Any) -> None:
    with pytest.raises(InvalidOptionError, match=f"alignment.*{alignment}"):
        create_arena(4096, "template", alignment=alignment)
