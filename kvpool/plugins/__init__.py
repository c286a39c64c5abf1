"""How plugins are found, chosen and refused."""

from __future__ import annotations

from kvpool import _exports
from kvpool.plugins._claims import PluginReport, PluginState, PluginWarning
from kvpool.plugins._kind import PluginKind
from kvpool.plugins._registry import PluginRegistry

__all__ = ["PluginKind", "PluginRegistry", "PluginReport", "PluginState", "PluginWarning"]

_exports.publish(__name__)
