"""Eviction: which session goes first when bytes are needed."""
