"""Discrete features, which a small perturbation gives values that no data have: flags, one-hot groups, counts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

WHY = {
    "one-hot": "one-hot groups",
    "two": "two values alone",
    "whole": "whole numbers alone",
}


def discrete(values: Float64[np.ndarray, "n d"]) -> dict[str, list[int]]:
    """The columns of discrete features by kind, each column under one kind: one-hot groups, two values, whole numbers.

    Adjacent two-valued columns of which every row has exactly one at its upper value are a one-hot group, standardised or not.
    """
    low, high = values.min(0), values.max(0)
    two = ((values == low) | (values == high)).all(0) & (low < high)
    whole = (values == np.round(values)).all(0) & ~two
    hot = _one_hot(values, high, two)
    return {
        WHY["one-hot"]: np.flatnonzero(hot).tolist(),
        WHY["two"]: np.flatnonzero(two & ~hot).tolist(),
        WHY["whole"]: np.flatnonzero(whole).tolist(),
    }


def _one_hot(values: np.ndarray, high: np.ndarray, two: np.ndarray) -> np.ndarray:
    """A mask of the columns in one-hot groups of at least three columns; each group is the shortest from its first column."""
    upper, grouped, start = values == high, np.zeros(len(two), bool), 0
    while start < len(two):
        count, end = np.zeros(len(values), np.int64), start
        while end < len(two) and two[end] and count.max(initial=0) <= 1:
            count += upper[:, end]
            end += 1
            if end - start >= 3 and (count == 1).all():
                grouped[start:end] = True
                break
        start = end if grouped[start] else start + 1
    return grouped
