"""The parts of `kvpool.integrations.llama_cpp`; nothing else in kvpool imports llama_cpp."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

__all__: list[str] = []

LOWEST, NEXT = (0, 3, 36), (0, 4)
"""The versions of llama-cpp-python that are tested: from the first, up to the second."""

try:
    import_module("llama_cpp")
except ImportError as error:
    raise ImportError(
        f'the caches of llama.cpp need llama-cpp-python: install "kvpool[llama-cpp]" ({error})'
    ) from error

try:
    _found = version("llama-cpp-python")
except PackageNotFoundError:  # it is not installed as a package, so nothing is known of it
    _found = ".".join(map(str, LOWEST))
if not LOWEST <= tuple(int(part) for part in _found.split(".")[:3] if part.isdigit()) < NEXT:
    raise ImportError(
        "the caches of llama.cpp are tested with llama-cpp-python from "
        f"{'.'.join(map(str, LOWEST))} up to {'.'.join(map(str, NEXT))}, and {_found} is installed"
    )
