"""Boxes clipped to where a property may be violated, by the linear bounds that did not refute them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


def clipped(
    coeff: Float[np.ndarray, "rows boxes inputs"],
    least: Float[np.ndarray, "rows boxes"],
    conjunction: Int[np.ndarray, "rows boxes"],
    is_open: Bool[np.ndarray, "boxes conjunctions"],
    lower: Float[np.ndarray, "boxes inputs"],
    upper: Float[np.ndarray, "boxes inputs"],
) -> tuple[Float[np.ndarray, "boxes inputs"], Float[np.ndarray, "boxes inputs"]]:
    """A box within each box that has every point which violates the property by one of its open conjunctions.

    Each row is at least ``<A, x> + d`` over the box, and ``least``, m, at most the minimum of that. Where a conjunction is met,
    each of its rows is at most zero, and ``<A, x> + d >= m + A_i (x_i - l_i)`` for ``A_i > 0``; so ``x_i <= l_i - m / A_i``, and
    ``x_i >= u_i - m / A_i`` for ``A_i < 0``, with ``m <= 0`` where a row refutes nothing. All rows of a conjunction hold at once,
    and one conjunction is enough: its boxes are met, and those of the conjunctions enclosed. Ends are rounded outward.
    """
    with np.errstate(all="ignore"):
        reach = -least[..., None] / np.abs(coeff) * (1 + 2.0**-50)
        reach = np.where((coeff != 0) & (reach >= 0), reach, np.inf)  # NaN says nothing, nor what is above zero
        above = np.where(coeff > 0, np.nextafter(lower + reach, np.inf), np.inf)
        below = np.where(coeff < 0, np.nextafter(upper - reach, -np.inf), -np.inf)
    low, high = np.full_like(lower, np.inf), np.full_like(upper, -np.inf)
    for a in range(is_open.shape[1]):
        mine, asked = (conjunction == a)[..., None], is_open[:, a, None]
        high = np.where(asked, np.maximum(high, np.where(mine, above, np.inf).min(0)), high)
        low = np.where(asked, np.minimum(low, np.where(mine, below, -np.inf).max(0)), low)
    low, high = np.maximum(low, lower), np.minimum(high, upper)
    whole = ~(low <= high).all(1, keepdims=True)  # nothing violates it there: left to a bound that says so
    return np.where(whole, lower, low), np.where(whole, upper, high)
