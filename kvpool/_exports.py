"""The module that classes and functions name as their own: the one that a program imports."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from types import FunctionType
from typing import ForwardRef

__all__ = ["publish", "publish_as"]


def publish(front: str) -> None:
    """Let what a module lists in its ``__all__`` name that module, not an internal one.

    Tracebacks, pickles and pages then show ``kvpool.pool.MemoryPool``, not
    ``kvpool.pool._pool.MemoryPool``. Names from public modules stay as they are.

    Parameters
    ----------
    front : str
        The ``__name__`` of the module, which calls this after its ``__all__``.
    """
    module = sys.modules[front]
    for name in module.__all__:
        publish_as(front, getattr(module, name))


def publish_as(front: str, exported: object) -> None:
    """Let one class or function of an internal module name another module as its own.

    Parameters
    ----------
    front : str
        The name of the module that exports it.
    exported : object
        Anything; what is neither a class nor a function stays as it is.
    """
    if not isinstance(exported, type | FunctionType):
        return
    home = exported.__module__
    if not any(part.startswith("_") for part in home.split(".")):
        return
    exported.__module__ = front
    if isinstance(exported, type):
        _resolve_annotations(exported, home)
        # doctest and Sphinx look for the methods of a class where the class says it is.
        for member in vars(exported).values():
            function = getattr(member, "__func__", member)
            if isinstance(function, type | FunctionType) and function.__module__ == home:
                publish_as(front, function)


def _resolve_annotations(exported: type, home: str) -> None:
    """Replace annotations that are texts by what they name in the module of the class.

    `typing.get_type_hints` and its users look for those names in the module that a class says
    it is from, and the class is about to name another one. Texts that only a type checker can
    read stay.
    """
    with suppress(NameError):
        names = vars(sys.modules[home])
        exported.__annotations__ |= {
            name: annotation.__forward_arg__  # of a named tuple
            for name, annotation in inspect.get_annotations(exported).items()
            if isinstance(annotation, ForwardRef)
        }
        exported.__annotations__ = inspect.get_annotations(exported, globals=names, eval_str=True)
