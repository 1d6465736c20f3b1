"""Reports looked at again: one held against its own files, or two against each other."""

from __future__ import annotations

from pipeline.audit.comparison import Comparison, compare
from pipeline.audit.findings import Findings

__all__ = [
    "Comparison",
    "Findings",
    "compare",
]
