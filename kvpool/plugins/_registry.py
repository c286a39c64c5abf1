"""`PluginRegistry`: discovery through entry points, choice, blocking, and reports.

One registry serves one kind of plugin, for example the backends. A plugin is imported when it
is chosen or listed, never before, so a broken plugin has no effect until it is chosen.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

import pluggy

from kvpool._process import ForkAware, forget_forks, watch_forks
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

    from kvpool.plugins._kind import PluginKind

__all__ = ["PluginRegistry"]

T = TypeVar("T")


class PluginRegistry(ForkAware, Generic[T]):
    """Finds the plugins of one kind, chooses one by name, and reports on all of them.

    Parameters
    ----------
    kind : PluginKind
        Describes the plugins.

    Attributes
    ----------
    kind : PluginKind

    Notes
    -----
    *Discovery* happens at the first use, and its result is kept. *Environment variables* are
    read at each choice. *A plugin* is imported and its hook called once, when the plugin is
    first chosen or listed; a failure is not kept, so the next choice tries again.

    *Threads.* Every method may be called from any thread. Plugins are imported without a lock
    held, so an import that itself chooses a plugin does not deadlock.
    """

    def __init__(self, kind: PluginKind[T]) -> None:
        self.kind = kind
        self._noun = kind.name
        self._lock = threading.RLock()
        self._discovered: Mapping[str, tuple[Claim, ...]] | None = None
        self._registered: dict[str, Claim] = {}
        self._loaded: dict[Claim, T] = {}
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind.group}>"

    def names(self) -> tuple[str, ...]:
        """Return the names of all plugins in any state, in alphabetical order."""
        return tuple(sorted(self._claims()))

    def chosen_name(self, name: str | None = None) -> str:
        """Return the name to choose: the argument, or from the environment, or the default.

        Raises
        ------
        UnknownPluginError
            Neither the argument nor the environment nor a default names a plugin, or the
            argument is not a name.
        """
        if name is not None and not isinstance(name, str):
            raise UnknownPluginError(f"unknown {self._noun} {name!r}; {self._available()}")
        wanted = name or self._environment(self.kind.choice_variable) or self.kind.default
        if wanted is None:
            raise UnknownPluginError(f"no {self._noun} was named; {self._available()}")
        return wanted

    def chosen_by(self) -> str:
        """Return what chooses if no caller does: the environment variable, or ``"the default"``."""
        from_environment = self._environment(self.kind.choice_variable)
        return f"{self.kind.choice_variable}" if from_environment else "the default"

    def choose(self, name: str | None = None) -> T:
        """Return what the hook of a plugin returns.

        Parameters
        ----------
        name : str, optional
            Name of the plugin; by default the environment chooses, or else `PluginKind.default`.

        Returns
        -------
        T
            The same object for each choice of this plugin.

        Raises
        ------
        UnknownPluginError
            No plugin has this name; the text lists the available names.
        PluginDisabledError
            The environment disables the plugin.
        PluginConflictError
            Several distributions claim the name.
        BrokenPluginError
            The plugin cannot be imported, or its hook is missing, misspelt, raises, or returns
            an object of the wrong type. The cause is chained.
        """
        wanted = self.chosen_name(name)
        claims = self._claims().get(wanted)
        if claims is None:
            origin = "" if name else f" (chosen by {self.chosen_by()})"
            raise UnknownPluginError(
                f"unknown {self._noun} {wanted!r}{origin}; {self._available()}"
            )
        return self._open(claims)

    def reports(self) -> list[PluginReport[T]]:
        """Report on all plugins, in alphabetical order.

        Returns
        -------
        list of PluginReport

        Warns
        -----
        PluginWarning
            For each broken plugin, after all plugins were loaded.
        """
        reports = [self._report(claims) for _, claims in sorted(self._claims().items())]
        for report in reports:
            if report.state is PluginState.BROKEN:
                warnings.warn(report.reason, PluginWarning, stacklevel=2)
        return reports

    def register(self, name: str, plugin: object) -> T:
        """Add a plugin for this process only, without a distribution.

        Parameters
        ----------
        name : str
            A name that no other plugin has.
        plugin : object
            A module or object that implements the hook.

        Returns
        -------
        T
            What the hook of the plugin returns.

        Raises
        ------
        PluginConflictError
            Another plugin has this name.
        BrokenPluginError
            The plugin does not implement the hook correctly.
        """
        claim = Claim(name, THIS_PROCESS, "", lambda: plugin)
        with self._lock:
            taken = self._claims().get(name)
            if taken:
                raise PluginConflictError(
                    f"cannot register the {self._noun} {name!r}: {taken[0]} already provides it"
                )
            provided = self._ask(claim, plugin, self._manager(disabled=()))
            self._registered[name] = claim
            self._loaded[claim] = provided
        return provided

    def unregister(self, name: str) -> None:
        """Remove a plugin that was added by `register`.

        Raises
        ------
        UnknownPluginError
            No plugin of this name was registered.
        """
        with self._lock:
            claim = self._registered.pop(name, None)
            if claim is None:
                raise UnknownPluginError(f"no {self._noun} {name!r} was registered in this process")
            self._loaded.pop(claim, None)

    # -- the claims -----------------------------------------------------------------------

    def _claims(self) -> dict[str, tuple[Claim, ...]]:
        with self._lock:
            if self._discovered is None:
                self._discovered = discover(self.kind)
            by_hand = {name: (claim,) for name, claim in self._registered.items()}
            return {**self._discovered, **by_hand}

    def _available(self) -> str:
        return f"available: {', '.join(self.names()) or '(nothing)'}"

    # -- the environment ------------------------------------------------------------------

    @staticmethod
    def _environment(variable: str | None) -> str | None:
        return (os.environ.get(variable, "").strip() if variable else "") or None

    def _disabled(self) -> tuple[str, ...]:
        listed = self._environment(self.kind.disabled_variable) or ""
        return tuple(name for part in listed.split(",") if (name := part.strip()))

    # -- from a claim to a plugin --------------------------------------------------

    def _manager(self, disabled: tuple[str, ...]) -> pluggy.PluginManager:
        """Return a manager for one plugin, so that errors of other plugins do not affect it."""
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(self.kind.spec)
        for name in disabled:
            manager.set_blocked(name)
        return manager

    def _open(self, claims: tuple[Claim, ...]) -> T:
        claim = claims[0]
        manager = self._manager(self._disabled())
        if manager.is_blocked(claim.name):
            raise PluginDisabledError(
                f"the {self._noun} {claim.name!r} of {claim} is disabled by "
                f"{self.kind.disabled_variable}"
            )
        if len(claims) > 1:
            claimants = " and by ".join(map(str, claims))
            raise PluginConflictError(
                f"the {self._noun} {claim.name!r} is claimed by {claimants}; uninstall one of them"
            )
        with self._lock:
            if claim in self._loaded:
                return self._loaded[claim]
        try:
            plugin = claim.load()
        except (Exception, SystemExit) as error:
            raise self._broken(claim, "cannot be imported", error) from error
        with self._lock:
            if claim not in self._loaded:  # unless another thread was faster
                self._loaded[claim] = self._ask(claim, plugin, manager)
            return self._loaded[claim]

    def _ask(self, claim: Claim, plugin: object, manager: pluggy.PluginManager) -> T:
        """Call the hook of `plugin` and check what it returns."""
        try:
            manager.register(plugin, claim.name)
            manager.check_pending()
            answers = getattr(manager.hook, self.kind.hook)()
        except Exception as error:
            raise self._broken(claim, "fails", error) from error
        if not answers:
            raise self._broken(claim, "does not implement the hook, or returns None")
        if not isinstance(answers[0], self.kind.provides):
            wrong = TypeError(f"{answers[0]!r} is not of the type {self.kind.provides.__name__}")
            raise self._broken(claim, "returns an object of the wrong type", wrong) from wrong
        return answers[0]

    def _broken(
        self, claim: Claim, what: str, cause: BaseException | None = None
    ) -> BrokenPluginError:
        detail = f": {type(cause).__name__}: {cause}" if cause else ""
        return BrokenPluginError(
            f"the {self._noun} {claim.name!r} of {claim} (hook {self.kind.hook}) {what}{detail}"
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
