"""Run the tool: ``python -m scripts.stack COMMAND``."""

from __future__ import annotations

from scripts.stack.cli import main

if __name__ == "__main__":
    main()
