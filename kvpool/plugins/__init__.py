"""How plugins are found, chosen and refused."""

from __future__ import annotations

from kvpool import _exports
from kvpool.plugins._registry import PluginRegistry, PluginReport, PluginState, PluginWarning

__all__ = ["PluginRegistry", "PluginReport", "PluginState", "PluginWarning"]

_exports.publish(__name__)
