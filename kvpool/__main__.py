"""``python -m kvpool``: the command ``kvpool``, where no script of that name is on the path."""

from __future__ import annotations

from kvpool.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
