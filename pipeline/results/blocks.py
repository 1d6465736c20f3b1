"""Divides the samples of a run into blocks: only samples of one block share a batch, or decide when a rung is left.

The verdict of a sample depends on no other block, so results are bit for bit the same where the blocks of a run are certified
separately (``certify --shard``) and merged (``merge``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

SMALLEST, FEWEST = 16, 16
"""The fewest samples in a block, and the fewest blocks of a run that has samples for as many."""

Rows = Int64[np.ndarray, " rows"]


def blocks(n: int) -> list[Rows]:
    """The rows of ``n`` samples in consecutive blocks of sizes that differ by one at most.

    About ``sqrt(n)`` blocks, a multiple of 16, of about ``sqrt(n)`` samples: fewer blocks would allow few shards, more would make
    small batches. Below 256 samples there is a block for every sixteen.
    """
    many = n >= SMALLEST * FEWEST
    count = FEWEST * max(1, round(math.sqrt(n) / FEWEST)) if many else max(1, n // SMALLEST)
    return np.array_split(np.arange(n), count)


def together_in(blocks: Sequence[Rows]) -> list[Rows]:
    """Some blocks with their rows renumbered from 0, as rows of an array of their samples alone."""
    ends = np.cumsum([0, *map(len, blocks)])
    return [np.arange(start, end) for start, end in pairwise(ends)]


def by_block(blocks: Sequence[Rows], rows: Rows) -> list[Rows]:
    """Rows divided by block, in the given order; blocks without any of them are left out."""
    where = np.searchsorted([block[0] for block in blocks], rows, side="right")
    return [rows[where == number] for number in np.unique(where)]
