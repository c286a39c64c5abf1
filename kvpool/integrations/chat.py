"""Models of transformers to chat with, over sessions of a pool.

Needs the extra ``kvpool[chat]``.
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._chat.answering import Listener
from kvpool.integrations._chat.chat_model import PREFILL_TOKENS, ChatModel
from kvpool.integrations._chat.chat_text import ChatModelError, ChatText, Prompt
from kvpool.integrations._chat.token_text import TokenText

__all__ = [
    "PREFILL_TOKENS",
    "ChatModel",
    "ChatModelError",
    "ChatText",
    "Listener",
    "Prompt",
    "TokenText",
]

_exports.publish(__name__)
