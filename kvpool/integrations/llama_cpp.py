"""The pool as the cache of llama.cpp, through llama-cpp-python.

Needs the extra ``kvpool[llama-cpp]``; the guide is the page "llama.cpp".
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._llama_cpp.model import PooledLlama
from kvpool.integrations._llama_cpp.states import LlamaPoolCache

__all__ = ["LlamaPoolCache", "PooledLlama"]

_exports.publish(__name__)
