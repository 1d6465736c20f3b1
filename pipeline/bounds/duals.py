"""The best multipliers of parts in which every sign is assumed, by a linear program: what no local search finds.

In such a part the network is linear, and so is every assumption. The caller proves the bound again, by a walk with
the multipliers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.bounds.splits import Domains, SplitBounds, Trace
from pipeline.core.linear_form import LinearForm

Vector = np.ndarray
LARGEST = 10_000_000
"""The numbers in the largest linear program that is tried."""


@torch.no_grad()
def solved(split: SplitBounds, domains: Domains) -> Domains:
    """The same domains, in each of which all signs are assumed, with the best multipliers there are and their bounds."""
    domains = domains.to(split.forms.const)
    beta = [_duals(split, domains[i : i + 1]) for i in range(len(domains))]
    result = replace(domains, beta=torch.stack(beta)) if beta else domains
    lower = [split.lower(part, part.alpha, part.beta, exact=True) for part in split.parts(result)]
    return replace(result, lower=torch.cat([result.lower[:0], *lower]))


def _duals(split: SplitBounds, domain: Domains) -> Float[Tensor, " neurons"]:
    """The best multipliers of one domain; those that it has where the program is too large, or has no solution."""
    ((index, region),) = split.bounds.regions.items()
    box, zeros = region.box, torch.zeros_like(domain.beta)
    if split.neurons * box.center.numel() > LARGEST:
        return domain.beta[0]

    def pulled(rows: Domains, start: Mapping[int, LinearForm] | None) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients over the inputs, and constants, of the forms of the domains or of those to ``start`` from."""
        trace = Trace()
        split.lower(rows, rows.alpha, zeros.expand_as(rows.alpha), exact=True, trace=trace, start=start)
        if index not in trace.ends:  # every walk ends before, such as at a step function: a function of nothing
            return np.zeros((len(rows), box.center.numel())), np.zeros(len(rows))
        form = trace.ends[index]
        return form.coeff.flatten(1).cpu().numpy(), form.const[:, 0].cpu().numpy()

    (c,), (d,) = pulled(domain, None)
    a, b = np.zeros((split.neurons, len(c))), np.zeros(split.neurons)
    for mine, start in split.neuron_forms():
        a[mine], b[mine] = pulled(Domains.joined([domain] * (mine.stop - mine.start)), start)
    sign = domain.sign[0].cpu().numpy()
    ends = [end[0].flatten().cpu().numpy() for end in (box.lower, box.upper)]
    beta = multipliers(c, float(d), sign[:, None] * a, sign * b, *ends)
    return domain.beta[0] if beta is None else zeros.new_tensor(beta)


def multipliers(c: Vector, d: float, a: np.ndarray, b: Vector, low: Vector, high: Vector) -> Vector | None:
    """``beta >= 0`` with the largest ``min over low <= x <= high of <c, x> + d - sum_i beta_i (<a_i, x> + b_i)``.

    That is ``min <c, x> + d`` over the ``x`` with ``<a_i, x> + b_i >= 0`` for all ``i``, by duality. Where no ``x`` meets them
    all there is no largest: multipliers are taken from ``min_x max_i -(<a_i, x> + b_i) > 0``, as large as it takes for the
    bound to be positive. HiGHS computes them, and nothing here relies on it: the caller proves with them again. None where it
    fails.
    """
    from scipy.optimize import linprog  # it takes a second to load, and few searches come here

    ends: Any = [*zip(low, high, strict=True)]
    solution = linprog(c, A_ub=-a, b_ub=b, bounds=ends, method="highs")
    if solution.status == 0:
        return np.maximum(0, -solution.ineqlin.marginals)
    infeasible = linprog(
        np.append(np.zeros_like(c), 1.0),
        A_ub=np.column_stack([-a, -np.ones(len(a))]),
        b_ub=b,
        bounds=[*ends, (None, None)],
        method="highs",
    )
    if infeasible.status != 0 or not infeasible.fun or infeasible.fun <= 0:
        return None
    least = float(np.minimum(c * low, c * high).sum()) + d
    return np.maximum(0, -infeasible.ineqlin.marginals) * (2 * (abs(least) + 1) / infeasible.fun)
