"""The ledger: receipts in files, chained by hashes, signed, continued, read."""

from __future__ import annotations
