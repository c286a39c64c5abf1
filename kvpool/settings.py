"""`Settings`: how to open a manager, from a file and from environment variables."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from kvpool.errors import KVPoolError
from kvpool.layout import KVLayout, Packing
from kvpool.manager import KVCacheManager

__all__ = ["LayoutSettings", "Settings", "SettingsError"]

_PREFIX = "KVPOOL_"
_FILES = ("kvpool.toml", "pyproject.toml")


class SettingsError(KVPoolError, ValueError):
    """A setting is not accepted, or its file cannot be read; the text names where it stands."""


class LayoutSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The layout of the entries, as in the table ``[tool.kvpool.layout]``; see `KVLayout`."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str = "float16"
    packing: Packing = "head"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """How to open a `KVCacheManager`: its arguments, all of them optional but the capacity.

    Notes
    -----
    *Where settings come from*, the first that has one: the arguments of `load`; the environment
    variables ``KVPOOL_BACKEND``, ``KVPOOL_CAPACITY``, ``KVPOOL_CHUNK_TOKENS``, ``KVPOOL_ELASTIC``,
    ``KVPOOL_POLICY``, ``KVPOOL_PREFIX_TOKENS``, ``KVPOOL_SECURE``, ``KVPOOL_SNAPSHOT_INTERVAL``,
    ``KVPOOL_TIERS`` (URLs with spaces between them) and ``KVPOOL_TTL``; the file.
    ``KVPOOL_RECEIPTS`` works with every manager, see `KVCacheManager`.

    *The file* is the one that is given, or that ``KVPOOL_CONFIG`` names; else the nearest
    ``kvpool.toml``, or ``pyproject.toml`` with a table ``[tool.kvpool]``, in the current directory
    or above it. Nothing reads a file but `load`.

    Examples
    --------
    >>> settings = Settings.load(file=None, environment={"KVPOOL_TTL": "600"}, capacity="64MiB")
    >>> settings.ttl, settings.capacity
    (600.0, '64MiB')
    >>> with settings.open(layout=KVLayout(2, 2, 64)) as manager:
    ...     manager.pool.capacity == 64 << 20
    True
    """

    capacity: int | str = "512MiB"
    backend: str | None = None
    ttl: float | None = None
    policy: str | None = None
    receipts: bool | str | list[str] = True
    snapshot_interval: float | None = None
    elastic: bool | None = None
    secure: bool = False
    chunk_tokens: int = 64
    prefix_tokens: int | None = None
    tiers: str | list[str] | None = None
    layout: LayoutSettings | None = None
    backend_options: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str] | None = "",
        environment: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> Settings:
        """Read the settings.

        Parameters
        ----------
        file : path, optional
            A TOML file: the settings themselves, or in a ``pyproject.toml`` the table
            ``[tool.kvpool]``. None reads no file. By default the file is searched.
        environment : mapping of str to str, optional
            By default `os.environ`.
        **arguments
            Settings that go before those of the environment and of the file.

        Raises
        ------
        SettingsError
            The file cannot be read, a setting is unknown, or has a value of another type.
        """
        variables = os.environ if environment is None else environment
        places: dict[str, str] = {}
        if file == "":
            where, table = _search(variables)
        else:
            where, table = ("", None) if file is None else _read(Path(file))
        read = {} if table is None else _typed(table, where, strict=True)
        places |= dict.fromkeys(read, where)
        for name in cls.__struct_fields__:
            variable = _PREFIX + name.upper()
            value = variables.get(variable, "").strip()
            if value and name not in _NOT_IN_ENVIRONMENT:
                where = f"the environment: {variable}={value!r}"
                read |= _typed({name: value}, where, strict=False)
                places[name] = f"the environment, {variable}"
        read |= _typed(arguments, "the arguments", strict=True)
        places |= dict.fromkeys(arguments, "the arguments of load")
        settings = cls(**read)
        settings.__dict__["places"] = places
        return settings

    def open(self, layout: KVLayout | None = None, **arguments: Any) -> KVCacheManager:
        """Open a manager with these settings.

        Parameters
        ----------
        layout : KVLayout, optional
            By default that of the settings.
        **arguments
            For `KVCacheManager`; they go before the settings.

        Raises
        ------
        KVPoolError
            As `KVCacheManager` and `KVLayout` raise it. Notes below it name each setting that
            `load` read, with its value and where it stands.
        """
        try:
            return self._open(layout, arguments)
        except KVPoolError as error:
            for name, place in self.__dict__.get("places", {}).items():
                if name not in arguments:
                    error.add_note(f"setting {name} = {getattr(self, name)!r} is from {place}")
            raise

    def _open(self, layout: KVLayout | None, arguments: dict[str, Any]) -> KVCacheManager:
        if layout is None and self.layout is not None:
            layout = KVLayout(**msgspec.structs.asdict(self.layout))
        fields = msgspec.structs.asdict(self)
        options = fields.pop("backend_options") | arguments
        del fields["layout"]
        if isinstance(self.tiers, str):  # of the environment, which has no lists
            fields["tiers"] = self.tiers.split()
        return KVCacheManager(**{"layout": layout, **fields, **options})


_NOT_IN_ENVIRONMENT = ("backend_options", "layout", "receipts")


def _typed(values: Mapping[str, Any], where: str, *, strict: bool) -> dict[str, Any]:
    """Return settings with the types that they must have."""
    try:
        made = msgspec.convert(values, Settings, strict=strict)
    except msgspec.ValidationError as error:
        for name, value in values.items():
            if str(error).endswith(f"at `$.{name}`") and repr(value) not in where:
                where = f"{where}, {name} = {value!r}"
        raise SettingsError(f"{where}: {error}") from None
    return {name: getattr(made, name) for name in values}


_Found: TypeAlias = tuple[str, dict[str, Any] | None]
"""Where the settings of a file stand, and the settings; None if the file has none."""


def _search(variables: Mapping[str, str]) -> _Found:
    """Read the file that the environment names, or the nearest one with settings."""
    if named := variables.get(f"{_PREFIX}CONFIG", "").strip():
        return _read(Path(named))
    try:
        here = Path.cwd()
        files = (folder / name for folder in (here, *here.parents) for name in _FILES)
        found = (_read(file) for file in files if file.is_file())
        return next((one for one in found if one[1] is not None), ("", None))
    except OSError as error:
        raise SettingsError(f"cannot search for a file with settings: {error}") from error


def _read(file: Path) -> _Found:
    table = _toml(file)
    if file.name != "pyproject.toml":
        return str(file), table
    tools = table.get("tool")
    return f"{file}, [tool.kvpool]", tools.get("kvpool") if isinstance(tools, dict) else None


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise SettingsError(f"{file} is not TOML: {error}") from error
