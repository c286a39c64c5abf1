"""Verification: the form, hashes, signatures and numbers of a ledger, without trust in it."""

from __future__ import annotations
