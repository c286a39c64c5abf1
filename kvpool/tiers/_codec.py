"""`Codec`: the contract of what turns keys and values into fewer, or other, bytes and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np

from kvpool import _optional_imports
from kvpool.errors import ChunkError, InvalidTierError, KVPoolError
from kvpool.hookspecs import CodecSpec
from kvpool.plugins import PluginKind, PluginRegistry
from kvpool.tiers._base import Part

__all__ = [
    "PLAIN",
    "Codec",
    "CodecChain",
    "CodecFactory",
    "Form",
    "codec_registry",
    "open_codec",
]


class Form(NamedTuple):
    """What the data of a codec is.

    Parameters
    ----------
    shape : tuple of int or None
        The shape (layers, 2, kv_heads, tokens, head_dim) of keys and values; None if the data is
        what another codec made of them.
    dtype : dtype
        Of the elements; uint8 if the shape is None.
    about : bytes
        The header of the chunk. It is stored as it is; a cipher authenticates it.
    """

    shape: tuple[int, ...] | None
    dtype: np.dtype[Any]
    about: bytes

    @property
    def nbytes(self) -> int | None:
        """Bytes of the data; None if they are not known before."""
        return None if self.shape is None else int(np.prod(self.shape)) * self.dtype.itemsize


class Codec(ABC):
    """Turns bytes into others, and back.

    Attributes
    ----------
    name : str
        Written into each chunk, so that the chunk can be read by what it says of itself.
    is_lossless : bool
        Whether `decode` gives exactly the bytes that `encode` was given.
    is_cipher : bool
        Whether a key is needed to read the bytes, and to make others that `decode` takes.
    takes_arrays_only : bool
        Whether it must be the first one of a chain, because it has to know what the bytes are.

    Notes
    -----
    Any method may be called from any thread, also while another thread is in it. The
    conformance suite `kvpool.testing.CodecSuite` contains this contract as tests.
    """

    name: ClassVar[str]
    is_lossless: ClassVar[bool] = True
    is_cipher: ClassVar[bool] = False
    takes_arrays_only: ClassVar[bool] = False

    @abstractmethod
    def encode(self, data: memoryview, form: Form, /) -> Sequence[Part]:
        """Return the bytes to store, in parts.

        Parameters
        ----------
        data : memoryview
            Contiguous bytes.
        form : Form

        Raises
        ------
        TierError
            The data is not what the codec can store.
        """

    @abstractmethod
    def decode(self, data: memoryview, form: Form, /) -> Part:
        """Return the bytes that `encode` was given.

        Parameters
        ----------
        data : memoryview
            Stored bytes, which may be anything. What is returned may be a part of it.
        form : Form
            As at `encode`.

        Raises
        ------
        ChunkError
            The data is not what `encode` made for this form; the reason is ``"payload"``, or
            ``"key"`` if a cipher has another key.
        """


@dataclass(frozen=True, slots=True)
class CodecFactory:
    """The description of a codec, which its plugin returns.

    Parameters
    ----------
    create : callable
        Takes the options as keyword arguments of type `str`, and returns a `Codec`. Raises
        `InvalidTierError` for a value that it does not accept.
    summary : str
        One line for people who choose a codec.
    options : mapping of str to str
        What each option means.
    modules : tuple of str, optional
        Names of the modules that `create` imports and that may not be installed.
    extra : str, optional
        What installs them, for example ``"kvpool[zstd]"``.
    """

    create: Callable[..., Codec]
    summary: str
    options: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    extra: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the modules are there. Only the packages around them are imported for that."""
        return _optional_imports.are_installed(*self.modules)


_BUILTINS: Final = {
    "aes-gcm": "kvpool.tiers.codecs.aes_gcm",
    "int4": "kvpool.tiers.codecs.int4",
    "int8": "kvpool.tiers.codecs.int8",
    "zstd": "kvpool.tiers.codecs.zstd",
}

codec_registry = PluginRegistry(
    PluginKind(
        "codec",
        group="kvpool.codecs",
        hook="kvpool_codec",
        spec=CodecSpec,
        provides=CodecFactory,
        builtins=_BUILTINS,
        disabled_variable="KVPOOL_DISABLED_CODECS",
    )
)
"""The codecs of this process."""


class CodecChain:
    """Codecs that are applied one after the other; without a codec the bytes are stored plain.

    Parameters
    ----------
    parts : sequence of Codec
        The first one gets keys and values.

    Raises
    ------
    InvalidTierError
        A codec that has to be the first one stands behind another.

    Attributes
    ----------
    name : str
        The names, separated by commas; ``"none"`` for no codec.
    is_lossless, is_cipher : bool
        Whether all are lossless, and whether any is a cipher.
    is_plain : bool
        Whether there is no codec.
    """

    __slots__ = ("_parts", "is_cipher", "is_lossless", "is_plain", "name")

    def __init__(self, parts: Sequence[Codec] = ()) -> None:
        for codec in parts[1:]:
            if codec.takes_arrays_only:
                raise InvalidTierError(
                    f"the codec {codec.name!r} takes keys and values, so it must be the first "
                    f"one, before {parts[0].name!r}"
                )
        self._parts = tuple(parts)
        self.name = ",".join(codec.name for codec in parts) or "none"
        self.is_plain = not parts
        self.is_lossless = all(codec.is_lossless for codec in parts)
        self.is_cipher = any(codec.is_cipher for codec in parts)

    def encode(self, data: memoryview, form: Form) -> Sequence[Part]:
        """Return what is to be stored, in parts; see `Codec.encode`."""
        parts: Sequence[Part] = [data]
        for codec in self._parts:
            joined = memoryview(parts[0] if len(parts) == 1 else b"".join(parts)).cast("B")
            parts = codec.encode(joined, form)
            form = _opaque(form)
        return parts

    def decode(self, data: memoryview, form: Form) -> memoryview:
        """Return what was encoded, after a check of its size; see `Codec.decode`.

        Raises
        ------
        ChunkError
            The data is not what `encode` makes.
        """
        for number, codec in reversed(list(enumerate(self._parts))):
            its_form = _opaque(form) if number else form
            try:
                data = memoryview(codec.decode(data, its_form)).cast("B")
            except KVPoolError:
                raise
            except Exception as error:  # a codec of others, given bytes that may be anything
                raise ChunkError(
                    f"the codec {codec.name!r} cannot decode the chunk: {error}", "payload"
                ) from error
        if data.nbytes != form.nbytes:
            raise ChunkError(
                f"the chunk has {data.nbytes} bytes of keys and values, not {form.nbytes}",
                "payload",
            )
        return data

    @property
    def for_bytes(self) -> CodecChain:
        """The codecs that take any bytes, in the same order."""
        return CodecChain([codec for codec in self._parts if not codec.takes_arrays_only])

    def __repr__(self) -> str:
        return f"<CodecChain {self.name!r}>"


def _opaque(form: Form) -> Form:
    """Return the form of what a codec made."""
    return Form(None, np.dtype(np.uint8), form.about)


PLAIN: Final = CodecChain()
"""Stores keys and values as they are."""


def open_codec(text: str) -> CodecChain:
    """Return the codecs that a text names.

    Parameters
    ----------
    text : str
        Names, separated by commas, each followed by its options: ``zstd``,
        ``int8,zstd;level=3`` or ``zstd,aes-gcm;key=/etc/kv.key``; ``none`` for no codec.

    Raises
    ------
    PluginError
        There is no codec of a name, or it cannot be used; see `PluginRegistry.choose`.
    InvalidTierError
        A codec does not have an option or does not accept its value, or the order is impossible.
    MissingExtraError
        What a codec needs is not installed.

    Examples
    --------
    >>> open_codec("none").name
    'none'
    """
    names = [part.strip() for part in text.split(",")]
    if names == ["none"]:
        return PLAIN
    return CodecChain([_open_one(part) for part in names])


def _open_one(text: str) -> Codec:
    name, *pairs = text.split(";")
    factory = codec_registry.choose(name.strip())
    options: dict[str, str] = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not equals or option in options:
            raise InvalidTierError(f"an option of the codec {name!r} must be name=value, once")
        if option not in factory.options:
            known = ", ".join(sorted(factory.options)) or "it has none"
            raise InvalidTierError(
                f"the codec {name!r} has no option {option!r}; its options: {known}"
            )
        options[option] = value
    return factory.create(**options)
