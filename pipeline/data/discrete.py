"""Features that a perturbation by a little turns into what no data hold: flags, one-hot groups, counts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

WHY = {
    "one-hot": "one-hot groups",
    "two": "two values alone",
    "whole": "whole numbers alone",
}


def discrete(values: Float64[np.ndarray, "n d"]) -> dict[str, list[int]]:
    """By what they hold, the columns that hold two values or whole numbers alone; in no other column is one of another kind.

    Two-valued columns side by side of which every row has exactly one at its upper value are a one-hot group, whether or not they
    were standardised since.
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
    """Which columns are of a one-hot group, of at least three: the shortest that begins at each column."""
    upper, found, start = values == high, np.zeros(len(two), bool), 0
    while start < len(two):
        count, end = np.zeros(len(values), np.int64), start
        while end < len(two) and two[end] and count.max(initial=0) <= 1:
            count += upper[:, end]
            end += 1
            if end - start >= 3 and (count == 1).all():
                found[start:end] = True
                break
        start = end if found[start] else start + 1
    return found
