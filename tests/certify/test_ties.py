"""Strict inequalities hold at a tie: ``Y > c`` is excluded by ``Y <= c``, and by nothing less where ``Y >= c`` is asked."""

from __future__ import annotations

from fractions import Fraction as Q

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.certify.subdomain import never_negative
from pipeline.core import ops
from pipeline.vnnlib import Case, Constraint, Property
from tests import nets
from tests.certify.test_property import grid, prove

TAILS = {
    "-relu": (0.0, 1, [(nn.ReLU(),), (ops.Neg(),)]),
    "relu": (0.0, -1, [(nn.ReLU(),)]),
    "clip above": (0.0625, 1, [(ops.Clip(-0.0625, 0.0625),)]),
    "clip below": (-0.0625, -1, [(ops.Clip(-0.0625, 0.0625),)]),
    "abs": (0.0, -1, [(nn.ReLU(),), (ops.Abs(),)]),
    "maximum": (0.0625, -1, [(ops.Max(), 0.0625)]),
    "scaled": (0.0, 1, [(nn.ReLU(),), (ops.Mul(), -3.0)]),
    "reduced": (0.0625, 1, [(ops.Clip(None, 0.0625),), (ops.ReduceMax((1,), keepdim=True),)]),
    "pooled": (0.0, -1, [(nn.ReLU(),), (ops.Reshape((0, 1, -1)),), (nn.MaxPool1d(3),), (nn.Flatten(),)]),
}


def tailed(tail, seed):
    d = nets.Drawing(seed)
    x = d(nn.Linear(8, 3), d(nn.ReLU(), d(nn.Linear(2, 8), d.input(2))))
    for op, *values in tail:
        x = d(op, x, *(d.constant(torch.tensor(v)) for v in values))
    return d.finish(x, shapes=((None, None),))


def outcome(network, outputs, sign, end, *, strict, mode):
    unsafe = Constraint(((0, Q(-sign)),), -Q(sign) * Q(end), strict)
    case = Case((Q(-1),) * 2, (Q(1),) * 2, ((unsafe,),))
    return prove(network, Property(2, outputs, (case,)), "crown-ibp", mode=mode, split=False)


@pytest.mark.parametrize("mode", ["float32-any-order", "real"])
@pytest.mark.parametrize(("end", "sign", "tail"), TAILS.values(), ids=TAILS)
def test_an_output_that_stops_at_a_number_is_never_beyond_it(end, sign, tail, mode):
    reached = 0
    for seed in range(2):
        network = tailed(tail, seed)
        y = network(grid(2)).detach().double()
        assert (sign * (y[:, 0] - end) <= 0).all()
        assert not outcome(network, y.shape[1], sign, end, strict=True, mode=mode).open
        nearer = end - sign * 2.0**-30
        touched = bool((sign * (y[:, 0] - nearer) > 0).any())
        reached += touched
        for limit, strict in ((end, False), (nearer, True)):
            # Wrong rules: a tie that excludes what is not strict, and a bound that rounds inwards.
            left = outcome(network, y.shape[1], sign, limit, strict=strict, mode=mode).open
            assert left or not touched
    assert reached


def test_signs_go_through_layers_and_a_weight_of_the_other_sign_ends_that():
    d = nets.Drawing(0)
    hidden = d(nn.ReLU(), d(nn.Linear(2, 6), d.input(2)))
    last = nn.Linear(6, 2)
    network = d.finish(d(last, hidden), shapes=((None, 2),))
    with torch.no_grad():
        last.weight.abs_().neg_(), last.bias.zero_()
    assert not outcome(network, 2, 1, 0.0, strict=True, mode="float32-any-order").open
    for spoil in (
        lambda: last.weight[0, 3].copy_(torch.tensor(1e-20)),
        lambda: last.bias[0].copy_(torch.tensor(1e-30)),
    ):
        with torch.no_grad():
            last.weight.abs_().neg_(), last.bias.zero_(), spoil()
        assert outcome(network, 2, 1, 0.0, strict=True, mode="float32-any-order").open


def test_a_bound_that_is_not_finite_or_nan_excludes_nothing():
    row, ones = np.array([[1.0, -1.0]]), np.ones((1, 2))
    assert never_negative(row, np.zeros(1), ones, ones).all()
    assert not never_negative(row, np.array([-(2.0**-1074)]), ones, ones).any()
    for bad in (np.nan, np.inf, -np.inf):
        assert not never_negative(row, np.zeros(1), np.array([[bad, 1.0]]), ones).any()
        assert not never_negative(row, np.array([bad]), ones, ones).any()
