"""`Identity`: whose tokens they are."""

from __future__ import annotations

from typing import NamedTuple

from kvpool.layout import KVLayout

__all__ = ["Identity"]


class Identity(NamedTuple):
    """What has to be equal for two sessions to share keys and values of equal tokens.

    Parameters
    ----------
    model_id : str
        Weights, adapter and revision.
    salt : str
        Of the tenant.
    layout : KVLayout
    """

    model_id: str
    salt: str
    layout: KVLayout

    @property
    def token_nbytes(self) -> int:
        """Bytes of keys and values of one token."""
        return self.layout.bytes_per_token
