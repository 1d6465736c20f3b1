"""Operators that pick and resample: what the laws' own examples cannot say."""

from __future__ import annotations

import pytest
import torch

from pipeline import ops
from pipeline.arithmetic import EXACT, Outward
from pipeline.bounds import LinearForm
from pipeline.errors import InputRejected
from pipeline.rules import rule_for
from tests import laws

REAL = Outward(deployed=False)


@pytest.mark.parametrize("rounding", [EXACT, REAL], ids=["none", "real"])
@pytest.mark.parametrize(
    "op", [ops.Resize((2.5, 1.5), "bilinear"), ops.Resize((0.6, 2.0), "bilinear", align_corners=True)]
)
def test_linear_resampling_is_affine_in_real_arithmetic(op, rounding):
    x = laws.box((2, 8, 5, 4), "wide", torch.Generator().manual_seed(0))
    box, relaxation = rule_for(op).interval(op, x, rounding=rounding), rule_for(op).relax(op, x, rounding=rounding)
    coeff = torch.randn(5, *box.center.shape, dtype=torch.float64)
    (pulled,) = relaxation.pull_back(LinearForm(coeff, torch.zeros(5, 2, dtype=torch.float64)))
    for (point,) in laws.points(op, [x], seed=1):
        assert laws.violation(box, op(point)) <= (1e-12 if rounding is EXACT else 0)
        value = (coeff * op(point)).flatten(2).sum(2)
        below = pulled.const + (pulled.coeff * point).flatten(2).sum(2)
        assert bool((below <= value + 1e-11).all())
        assert torch.allclose(below, value, atol=1e-8)


def test_linear_resampling_is_refused_where_float32_is_promised():
    op, x = ops.Resize((2.0,), "linear"), laws.box((2, 3, 4), "wide", torch.Generator().manual_seed(0))
    for ask in (rule_for(op).interval, rule_for(op).relax):
        with pytest.raises(InputRejected, match="Resize"):
            ask(op, x, rounding=Outward(deployed=True))


def test_samples_are_not_repeated():
    x = laws.box((1, 4), "wide", torch.Generator().manual_seed(0))
    expand = ops.Expand((3, 4))
    with pytest.raises(InputRejected, match="samples"):
        rule_for(expand).interval(expand, x)
    assert rule_for(ops.Gather(torch.tensor(0), 0)).refuses(ops.Gather(torch.tensor(0), 0), (True,))
    assert rule_for(ops.Tile((2, 1))).refuses(ops.Tile((2, 1)), (True,))
    assert rule_for(ops.Where()).refuses(ops.Where(), (True, True, False))
