"""A look at one plugin of a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvpool.arena import ArenaBackend
    from kvpool.plugins import PluginRegistry, PluginReport

__all__ = ["report_of"]


def report_of(registry: PluginRegistry[ArenaBackend], name: str) -> PluginReport[ArenaBackend]:
    """Return the report of the plugin with a name."""
    (report,) = (report for report in registry.reports() if report.name == name)
    return report
