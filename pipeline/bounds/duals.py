"""The multipliers of a linear program: what no local search finds where every sign is assumed."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linprog

Vector = np.ndarray


def multipliers(c: Vector, d: float, a: np.ndarray, b: Vector, low: Vector, high: Vector) -> Vector | None:
    """``beta >= 0`` with the largest ``min over low <= x <= high of <c, x> + d - sum_i beta_i (<a_i, x> + b_i)``.

    That is ``min <c, x> + d`` over the ``x`` with ``<a_i, x> + b_i >= 0`` for all ``i``, by duality. Where no ``x`` meets them
    all there is no largest: multipliers are taken from ``min_x max_i -(<a_i, x> + b_i) > 0``, as large as it takes for the
    bound to be positive. Found by HiGHS; whoever uses them proves with them again. None where it finds none.
    """
    ends: Any = [*zip(low, high, strict=True)]
    found = linprog(c, A_ub=-a, b_ub=b, bounds=ends, method="highs")
    if found.status == 0:
        return np.maximum(0, -found.ineqlin.marginals)
    missed = linprog(
        np.append(np.zeros_like(c), 1.0),
        A_ub=np.column_stack([-a, -np.ones(len(a))]),
        b_ub=b,
        bounds=[*ends, (None, None)],
        method="highs",
    )
    if missed.status != 0 or not missed.fun or missed.fun <= 0:
        return None
    least = float(np.minimum(c * low, c * high).sum()) + d
    return np.maximum(0, -missed.ineqlin.marginals) * (2 * (abs(least) + 1) / missed.fun)
