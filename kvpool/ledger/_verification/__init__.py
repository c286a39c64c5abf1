"""Verification: what a ledger says of itself, checked without trust."""

from __future__ import annotations
