"""Plugins: discovery over entry points, choice, blocking, and reports of what is there.

One registry serves one kind of plugin, for example the backends. A plugin is imported when
it is chosen or listed, never before, and a broken one harms nobody who does not choose it.
"""

from __future__ import annotations

import os
import threading
import warnings
from typing import TYPE_CHECKING, Generic, TypeVar

import pluggy

from kvpool.errors import (
    BrokenPluginError,
    PluginConflictError,
    PluginDisabledError,
    PluginError,
    UnknownPluginError,
)
from kvpool.hookspecs import PROJECT
from kvpool.plugins._claims import (
    THIS_PROCESS,
    Claim,
    PluginReport,
    PluginState,
    PluginWarning,
    discover,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PluginRegistry", "PluginReport", "PluginState", "PluginWarning"]

T = TypeVar("T")


class PluginRegistry(Generic[T]):
    """The plugins of one kind: finds them, chooses one, says what is wrong with the others.

    Parameters
    ----------
    kind : str
        What messages call such a plugin, for example ``"backend"``.
    group : str
        Entry-point group in which distributions name their plugins.
    hook : str
        The hook that each plugin implements.
    spec : type
        Class with the specification of `hook`.
    provides : type of T
        What the hook returns; anything else is an error of the plugin.
    default : str, optional
        Name of the plugin to take if neither a caller nor the environment chooses.
    choice_variable : str, optional
        Environment variable that names the plugin to take if no caller chooses.
    disabled_variable : str, optional
        Environment variable with the names of plugins to block, separated by commas.

    Notes
    -----
    *Discovery* happens at the first use and is kept. *Environment variables* are read at
    each choice. *A plugin* is imported and its hook called once, when it is first chosen or
    listed; a failure is not kept, so the next choice tries again.

    *Threads.* Every method may be called from any thread. Plugins are imported without a lock
    held, so an import that chooses a plugin itself does not deadlock.
    """

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        hook: str,
        spec: type,
        provides: type[T],
        default: str | None = None,
        choice_variable: str | None = None,
        disabled_variable: str | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self.hook = hook
        self.default = default
        self.choice_variable = choice_variable
        self.disabled_variable = disabled_variable
        self._spec = spec
        self._provides = provides
        self._lock = threading.RLock()
        self._discovered: Mapping[str, tuple[Claim, ...]] | None = None
        self._registered: dict[str, Claim] = {}
        self._loaded: dict[Claim, T] = {}

    def names(self) -> tuple[str, ...]:
        """Return the names of all plugins, whatever their state, in alphabetical order."""
        return tuple(sorted(self._claims()))

    def chosen_name(self, name: str | None = None) -> str:
        """Return the name that a choice means: the argument, the environment, the default.

        Raises
        ------
        UnknownPluginError
            None of the three names a plugin.
        """
        wanted = name or self._environment(self.choice_variable) or self.default
        if wanted is None:
            raise UnknownPluginError(f"no {self.kind} was named; {self._there_are()}")
        return wanted

    def chosen_by(self) -> str:
        """Return who chooses where no caller does: the environment variable, or the default."""
        from_environment = self._environment(self.choice_variable)
        return f"{self.choice_variable}" if from_environment else "the default"

    def choose(self, name: str | None = None) -> T:
        """Return what the hook of a plugin provides.

        Parameters
        ----------
        name : str, optional
            The plugin; without it, the environment and then the default choose.

        Returns
        -------
        T
            The same object for each choice of this plugin.

        Raises
        ------
        UnknownPluginError
            There is no plugin of this name; the text lists those that are there.
        PluginDisabledError
            The environment blocks it.
        PluginConflictError
            Several distributions claim the name.
        BrokenPluginError
            It does not import, or its hook is missing, misspelt, raises, or returns
            something else than it should. The cause is chained.
        """
        wanted = self.chosen_name(name)
        claims = self._claims().get(wanted)
        if claims is None:
            origin = "" if name else f" (chosen by {self.chosen_by()})"
            raise UnknownPluginError(f"unknown {self.kind} {wanted!r}{origin}; {self._there_are()}")
        return self._open(claims)

    def reports(self) -> list[PluginReport[T]]:
        """Report on all plugins, in alphabetical order.

        Returns
        -------
        list of PluginReport

        Warns
        -----
        PluginWarning
            For each broken plugin, once all are looked at.
        """
        reports = [self._report(claims) for _, claims in sorted(self._claims().items())]
        for report in reports:
            if report.state is PluginState.BROKEN:
                warnings.warn(report.reason, PluginWarning, stacklevel=2)
        return reports

    def register(self, name: str, plugin: object) -> T:
        """Add a plugin by hand, for this process only.

        Parameters
        ----------
        name : str
            A name that no other plugin has.
        plugin : object
            A module or object that implements the hook.

        Returns
        -------
        T
            What its hook provides.

        Raises
        ------
        PluginConflictError
            The name is taken.
        BrokenPluginError
            The plugin does not implement the hook as it should; it is not added.
        """
        claim = Claim(name, THIS_PROCESS, "", lambda: plugin)
        with self._lock:
            taken = self._claims().get(name)
            if taken:
                raise PluginConflictError(
                    f"the {self.kind} {name!r} is there already, from {taken[0]}"
                )
            provided = self._ask(claim, plugin, self._manager(disabled=()))
            self._registered[name] = claim
            self._loaded[claim] = provided
        return provided

    def unregister(self, name: str) -> None:
        """Take away a plugin that was added by `register`.

        Raises
        ------
        UnknownPluginError
            No plugin of this name was added by hand.
        """
        with self._lock:
            claim = self._registered.pop(name, None)
            if claim is None:
                raise UnknownPluginError(f"no {self.kind} {name!r} was registered by hand")
            self._loaded.pop(claim, None)

    # -- the claims -----------------------------------------------------------------------

    def _claims(self) -> dict[str, tuple[Claim, ...]]:
        with self._lock:
            if self._discovered is None:
                self._discovered = discover(self.group)
            by_hand = {name: (claim,) for name, claim in self._registered.items()}
            return {**self._discovered, **by_hand}

    def _there_are(self) -> str:
        return f"there are: {', '.join(self.names()) or 'none'}"

    # -- the environment ------------------------------------------------------------------

    @staticmethod
    def _environment(variable: str | None) -> str | None:
        return (os.environ.get(variable, "").strip() if variable else "") or None

    def _disabled(self) -> tuple[str, ...]:
        listed = self._environment(self.disabled_variable) or ""
        return tuple(name for part in listed.split(",") if (name := part.strip()))

    # -- from a claim to what it provides --------------------------------------------------

    def _manager(self, disabled: tuple[str, ...]) -> pluggy.PluginManager:
        """Return a manager for one plugin: what is wrong with another stays out of it."""
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(self._spec)
        for name in disabled:
            manager.set_blocked(name)
        return manager

    def _open(self, claims: tuple[Claim, ...]) -> T:
        claim = claims[0]
        manager = self._manager(self._disabled())
        if manager.is_blocked(claim.name):
            raise PluginDisabledError(
                f"the {self.kind} {claim.name!r} of {claim} is disabled by {self.disabled_variable}"
            )
        if len(claims) > 1:
            claimants = " and by ".join(map(str, claims))
            raise PluginConflictError(
                f"the {self.kind} {claim.name!r} is claimed by {claimants}; keep one of them"
            )
        with self._lock:
            if claim in self._loaded:
                return self._loaded[claim]
        try:
            plugin = claim.load()
        except (Exception, SystemExit) as error:
            raise self._broken(claim, "cannot be imported", error) from error
        with self._lock:
            if claim not in self._loaded:  # no other thread was faster
                self._loaded[claim] = self._ask(claim, plugin, manager)
            return self._loaded[claim]

    def _ask(self, claim: Claim, plugin: object, manager: pluggy.PluginManager) -> T:
        """Call the hook of `plugin` and check what it returns."""
        try:
            manager.register(plugin, claim.name)
            manager.check_pending()
            answers = getattr(manager.hook, self.hook)()
        except Exception as error:
            raise self._broken(claim, "fails", error) from error
        if not answers:
            raise self._broken(claim, "does not implement the hook, or returns None")
        if not isinstance(answers[0], self._provides):
            wrong = TypeError(f"{answers[0]!r} is not of the type {self._provides.__name__}")
            raise self._broken(claim, "returns the wrong thing", wrong) from wrong
        return answers[0]

    def _broken(
        self, claim: Claim, what: str, cause: BaseException | None = None
    ) -> BrokenPluginError:
        detail = f": {type(cause).__name__}: {cause}" if cause else ""
        return BrokenPluginError(
            f"the {self.kind} {claim.name!r} of {claim} (hook {self.hook}) {what}{detail}"
        )

    def _report(self, claims: tuple[Claim, ...]) -> PluginReport[T]:
        provided, state, reason = None, PluginState.OK, ""
        try:
            provided = self._open(claims)
        except PluginError as error:
            state, reason = _STATES[type(error)], str(error)
        return PluginReport(
            name=claims[0].name,
            distribution=", ".join(claim.distribution for claim in claims),
            version=", ".join(claim.version for claim in claims),
            state=state,
            reason=reason,
            plugin=provided,
        )


_STATES: Mapping[type[PluginError], PluginState] = {
    PluginDisabledError: PluginState.DISABLED,
    PluginConflictError: PluginState.CONFLICT,
    BrokenPluginError: PluginState.BROKEN,
}
