"""Boxes are clipped to no less than where a property is violated, and to no more where one row says it all."""

from __future__ import annotations

from fractions import Fraction as Q

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.certify.clipping import clipped
from pipeline.certify.refuter import Refuter
from pipeline.certify.subdomain import whole
from pipeline.core import ops
from pipeline.methods import METHODS
from pipeline.vnnlib import Case, Property
from tests import nets
from tests.certify.test_property import at_most


def test_what_is_left_out_violates_nothing() -> None:
    """Of conjunctions of one to three rows, some of them closed, beside points drawn by chance; and something is left out."""
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(200):
        rows, inputs = int(rng.integers(1, 7)), int(rng.integers(1, 5))
        conjunction = np.sort(rng.integers(0, 3, rows))
        coeff, const = rng.standard_normal((rows, inputs)) * (rng.random((rows, inputs)) < 0.8), rng.normal(0, 1, rows)
        lower = rng.normal(-1, 1, (1, inputs))
        upper = lower + rng.exponential(1, (1, inputs))
        is_open = np.isin(range(3), conjunction)[None] & (rng.random((1, 3)) < 0.8)
        is_open[0, conjunction[0]] = True
        least = const + np.where(coeff > 0, coeff * lower, coeff * upper).sum(1)
        low, high = clipped(coeff[:, None], least[:, None], conjunction[:, None], is_open, lower, upper)
        x = rng.uniform(lower, upper, (2000, inputs))
        met = x @ coeff.T + const <= 0
        violating = np.zeros(len(x), bool)
        for a in np.flatnonzero(is_open[0]):
            violating |= met[:, conjunction == a].all(1)
        assert ((low <= x) & (x <= high)).all(1)[violating].all()
        assert (low >= lower).all()
        assert (high <= upper).all()
        kept.append(np.prod((high - low) / (upper - lower)))
    assert np.mean(kept) < 0.97


@pytest.mark.parametrize(
    ("slope", "least", "expected"), [(2.0, -1.0, (0, 0.5)), (-2.0, -1.0, (2.5, 3)), (2.0, -9.0, (0, 3))]
)
def test_one_row_of_one_input_says_it_all(slope: float, least: float, expected: tuple[float, float]) -> None:
    row = np.full((1, 1, 1), slope), np.full((1, 1), least), np.zeros((1, 1), int), np.ones((1, 1), bool)
    low, high = clipped(*row, np.zeros((1, 1)), np.full((1, 1), 3.0))
    assert low[0, 0] <= expected[0]
    assert high[0, 0] >= expected[1]
    assert abs(np.array([low[0, 0], high[0, 0]]) - expected).max() < 1e-12


def test_what_is_no_number_leaves_nothing_out() -> None:
    for slope, least in ((np.nan, -1.0), (1.0, np.nan), (1.0, -np.inf), (0.0, -1.0), (np.inf, -np.inf)):
        row = np.full((1, 1, 1), slope), np.full((1, 1), least), np.zeros((1, 1), int), np.ones((1, 1), bool)
        low, high = clipped(*row, np.zeros((1, 1)), np.full((1, 1), 3.0))
        assert (low[0, 0], high[0, 0]) == (0, 3)


@pytest.mark.parametrize("method", ["crown-ibp", "crown"])
def test_every_violating_point_of_a_network_stays_in_its_box(method: str) -> None:
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 81)] * 2).double()
    smaller = 0
    for seed in range(12):
        d = nets.Drawing(seed)
        network = d.finish(d(nn.Linear(8, 3), d(nn.ReLU(), d(nn.Linear(2, 8), d.input(2)))), shapes=((None, 3),))
        with torch.no_grad():
            y = network.in_float64()(grid).numpy()
        limits = [Q(float(q)) for q in np.quantile(y, 0.05, 0)]
        unsafe = ((at_most(limits[0], (0, 1)), at_most(limits[1], (1, 1))), (at_most(limits[2], (2, 1)),))[
            : 1 + seed % 2
        ]
        case = Case((Q(-1),) * 2, (Q(1),) * 2, unsafe)
        refuter = Refuter(network.in_float64(), Property(2, 3, (case,)), "float32-any-order", method="crown")
        left, _ = refuter.bound([whole(0, case)], METHODS[method])
        below = y <= np.array([float(t) for t in limits])
        violating = (below[:, 0] & below[:, 1]) | (below[:, 2] & (len(unsafe) > 1))
        for one in left:
            inside = ((one.lower <= grid.numpy()) & (grid.numpy() <= one.upper)).all(1)
            assert inside[violating].all()
            smaller += bool((one.upper - one.lower).prod() < 3.9)
        assert left or not violating.any()
    assert smaller > 1


def test_a_bound_that_comes_from_elsewhere_too_clips_nothing() -> None:
    """``y = x + sign(x) <= -1`` where ``x <= 0``: by the form over the input alone, ``x <= -1``, or not at all."""
    d = nets.Drawing(0)
    x = d.input(1)
    network = d.finish(d(ops.Add(), x, d(ops.Sign(), x)), shapes=((None, 1),))
    case = Case((Q(-2),), (Q(2),), ((at_most(-1, (0, 1)),),))
    refuter = Refuter(network.in_float64(), Property(1, 1, (case,)), "real", method="crown")
    for method in ("crown-ibp", "crown"):
        ((one,), _) = refuter.bound([whole(0, case)], METHODS[method])
        assert one.upper[0] >= -1e-9
