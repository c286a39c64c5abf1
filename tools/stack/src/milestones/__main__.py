"""Run the tool: ``python -m milestones COMMAND``."""

from __future__ import annotations

from milestones.cli import main

if __name__ == "__main__":
    main()
