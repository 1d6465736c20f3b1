"""The command line: parses, prints, exits, and is the only place that does."""

from __future__ import annotations

from pipeline.cli.beginning import ready

with ready():
    from pipeline.cli.main import main

__all__ = ["main"]
