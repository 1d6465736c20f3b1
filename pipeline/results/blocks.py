"""A run's samples in blocks, inside which alone samples share a batch or decide how long a rung is climbed.

What becomes of a sample depends on its own block and on no other: not one bit of a result differs where the blocks of a run are
shared out among runs of their own (``certify --shard``), and put together again (``merge``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

SMALLEST, FEWEST = 16, 16
"""Samples in a block at least, and blocks where there are as many samples as that takes."""

Rows = Int64[np.ndarray, " rows"]


def blocks(n: int) -> list[Rows]:
    """The rows of ``n`` samples in consecutive blocks of sizes that differ by one at most.

    About ``sqrt(n)`` blocks of about ``sqrt(n)`` samples, a multiple of 16 of them: fewer would leave little to share out, more
    would make small batches. Below 256 samples there is a block for every sixteen.
    """
    many = n >= SMALLEST * FEWEST
    count = FEWEST * max(1, round(math.sqrt(n) / FEWEST)) if many else max(1, n // SMALLEST)
    return np.array_split(np.arange(n), count)


def together_in(blocks: Sequence[Rows]) -> list[Rows]:
    """The rows of some blocks, counted anew where these are all that there is."""
    ends = np.cumsum([0, *map(len, blocks)])
    return [np.arange(start, end) for start, end in pairwise(ends)]


def by_block(blocks: Sequence[Rows], rows: Rows) -> list[Rows]:
    """Some rows, in the order given, by the block that they are in; a block without any is left out."""
    where = np.searchsorted([block[0] for block in blocks], rows, side="right")
    return [rows[where == number] for number in np.unique(where)]
