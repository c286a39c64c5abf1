"""The parts of `kvpool.integrations.transformers`; nothing else in kvpool imports torch."""

from __future__ import annotations

from importlib import import_module

for _name in ("torch", "transformers"):
    try:
        import_module(_name)
    except ImportError as error:
        raise ImportError(
            f'the cache of transformers models needs {_name}: install "kvpool[transformers]" '
            f"({error})"
        ) from error
