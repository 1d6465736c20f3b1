"""Each part of the account of rounding is needed: left out, an execution leaves its bound. Random nets would never tell."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.bounds.ibp import IntervalWalk
from pipeline.bounds.margins import MarginBounds
from pipeline.core import ops, outward
from pipeline.core.floating_point import gamma
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward
from pipeline.errors import InputRejected
from pipeline.onnx.kernel_runs import full
from pipeline.rules import rule_for
from pipeline.rules.affine import LinearRule
from tests import nets
from tests.bounds.executor import Execution, F

U, W = 2.0**-24, 2.0**-53
REAL, FLOAT32 = Outward(deployed=False), Outward(deployed=True)
GIVEN = Execution("given")


def linear(weight, bias=None) -> nn.Linear:
    weight = torch.as_tensor(np.atleast_2d(weight))
    op = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).double()
    with torch.no_grad():
        op.weight.copy_(weight)
        if bias is not None:
            op.bias.copy_(torch.as_tensor(bias))
    return op


def point(x) -> Interval:
    center = torch.as_tensor(np.asarray(x, np.float64))[None]
    return Interval(center, torch.zeros_like(center))


def escapes(op: nn.Linear, x: np.ndarray, rounding: Outward, how: Execution = GIVEN) -> bool:
    """Whether an execution of a layer at a point leaves its box."""
    b = np.zeros(op.out_features, F) if op.bias is None else op.bias.detach().numpy().astype(F)
    y = how(op.weight.detach().numpy().astype(F), b, np.asarray(x, F))
    box = rule_for(op).interval(op, point(x), rounding=rounding)
    return bool(((torch.from_numpy(y).double() - box.center[0]).abs() > box.radius[0]).any())


def absorbing(k: int = 400, first: float = 1.0) -> nn.Linear:
    """``1 + 0.99 u + 0.99 u + ...``: every term is absorbed, and the error is nearly ``k u``."""
    return linear([first, *[0.99 * U] * k])


def halved(n: int, unit: float) -> float:
    return gamma(max(1, n // 2) if unit == U else n, unit)


def test_gamma(monkeypatch):
    op, x = absorbing(), np.ones(401)
    assert not escapes(op, x, FLOAT32)
    assert escapes(op, x, REAL), "without the error of float32"
    monkeypatch.setattr(outward, "gamma", halved)
    assert escapes(op, x, FLOAT32), "with half the terms"


def test_gamma_of_one_row_uses_most_of_its_bound():
    op, x = absorbing(), np.ones(401)
    box = rule_for(op).interval(op, point(x), rounding=FLOAT32)
    y = float(GIVEN(op.weight.detach().numpy(), np.zeros(1, F), x)[0])
    assert abs(y - float(box.center)) > 0.9 * float(box.radius)


def test_the_bias(monkeypatch):
    """The bias comes first and swallows every product; its size, and not theirs, is that of the error."""
    op, x = linear([0.99 * U] * 400, [1.0]), np.ones(400)
    assert not escapes(op, x, FLOAT32)
    monkeypatch.setattr(LinearRule, "offset", lambda self, op, *xs: 0.0)
    assert escapes(op, x, FLOAT32)


def test_what_is_flushed(monkeypatch):
    op, x = linear([2.0**-100] * 40), np.full(40, 2.0**-28)
    how = Execution("given", ftz=True)
    assert not escapes(op, x, FLOAT32, how)
    monkeypatch.setattr(Outward, "_flushed", lambda self, *rest: outward.TINY64)
    assert escapes(op, x, FLOAT32, how)


def folding(*scales: float):
    """A layer with tiny weights behind which scales stand that a runtime may fold into them; input 2^30."""
    d = nets.Drawing(0)
    x = d(nn.Linear(4, 2, bias=False), d.input(4))
    for scale in scales:
        x = d(ops.Mul(), x, d.constant(torch.full((2,), scale)))
    network = d.finish(x, shapes=((None, 2),))
    with torch.no_grad():
        network.graph.get_submodule("n1").weight.fill_(2.0**-100)
    return network.in_float64()


@pytest.mark.parametrize("scales", [(2.0**-40,), (2.0**-20, 2.0**-20), (2.0**-50, 2.0**10)])
def test_a_folded_weight_that_is_flushed(scales, monkeypatch):
    """Deployed, ``W s`` is zero, and so is the output; the last pair is scaled up again after the loss."""
    network, x = folding(*scales), point([2.0**30] * 4)
    box = IntervalWalk(network, FLOAT32).boxes([x])[-1]
    assert bool((box.lower <= 0).all())
    monkeypatch.setattr("pipeline.bounds.ibp.sites", lambda plan, rounding: {})
    box = IntervalWalk(network, FLOAT32).boxes([x])[-1]
    assert bool((box.lower > 0).all())


def test_a_folded_scale_that_overflows():
    """In the weights it is refused; in the partial sums, which cancel, nothing is promised."""
    with pytest.raises(InputRejected, match="folding"):
        IntervalWalk(folding(2.0**120, 2.0**120), FLOAT32)
    network = folding(2.0**120)
    with torch.no_grad():
        network.graph.get_submodule("n1").weight.copy_(torch.tensor([[1.0, -1, 0, 0], [1, -1, 0, 0]]))
    assert bool(IntervalWalk(network, FLOAT32).boxes([point([2.0**10] * 4)])[-1].radius.isinf().all())
    assert bool(IntervalWalk(network, REAL).boxes([point([2.0**10] * 4)])[-1].radius.isfinite().all())


def test_more_scales_than_slack_pays_for():
    IntervalWalk(folding(*[0.5] * 10), FLOAT32)
    with pytest.raises(InputRejected, match="so many scales"):
        IntervalWalk(folding(*[0.5] * 11), FLOAT32)


def test_a_mean_may_be_summed_before_it_is_divided():
    op, x = nn.AvgPool1d(4).double(), torch.full((1, 1, 4), 2.0**127, dtype=torch.float64)
    box = rule_for(op).interval(op, Interval(x, torch.zeros_like(x)), rounding=FLOAT32)
    assert bool(box.radius.isinf().all())


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_both_logits_err(method, monkeypatch):
    """The deployed margin lacks the errors of two rows, not of the row of differences, nor of the label's alone."""
    d = nets.Drawing(0)
    x = d(nn.Linear(401, 2, bias=False), d.input(401))
    network = d.finish(x, shapes=((None, 2),)).in_float64()
    layer = next(m for m in network.graph.modules() if isinstance(m, nn.Linear))
    # Sums beginning just above one: absorbed below half a unit, rounded up above it.
    with torch.no_grad():
        layer.weight[0] = torch.tensor([1.0, *[0.99 * U] * 400])
        layer.weight[1] = torch.tensor([1.0, *[1.01 * U] * 400])
    z = GIVEN(layer.weight.detach().numpy(), np.zeros(2, F), np.ones(401)).astype(np.float64)
    margin, label, region = z[0] - z[1], torch.tensor([0]), point(np.ones(401))
    assert float(MarginBounds(network, FLOAT32, method=method).least(region, label)) <= margin

    def only_mine(self, const, added, coeff, slack):
        return honest(self, const, added, coeff.clamp_min(0), slack)

    honest = Outward.descend
    monkeypatch.setattr(Outward, "descend", only_mine)
    assert float(MarginBounds(network, FLOAT32, method=method).least(region, label)) > margin


def test_fan_out_and_not_fan_in_of_a_backward_walk(monkeypatch):
    """A coefficient pulled back through 400 outputs is a sum of 400 terms; here each is rounded up."""
    n = 400
    op = linear(np.array([[1.0], *[[1.01 * W]] * n]))
    form = LinearForm(torch.ones(1, 1, n + 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    true = 1 + n * 1.01 * W

    def in_order(self, op, coeff, *xs):
        total = torch.zeros_like(coeff[..., :1])
        for j in range(coeff.shape[-1]):
            total = total + coeff[..., j : j + 1] * op.weight[j]
        return (total,)

    def bound() -> float:
        (pulled,) = rule_for(op).relax(op, point([1.0]), rounding=REAL).pull_back(form)
        return float(REAL.minimum(pulled, point([1.0])))

    monkeypatch.setattr(LinearRule, "transpose", in_order)
    assert bound() <= true
    monkeypatch.setattr(LinearRule, "fan_out", lambda self, op, *xs: op.in_features)
    assert bound() > true


def test_a_sigmoid_may_exceed_one():
    """ONNX Runtime's does on some builds: a box clipped to [0, 1] would not contain it."""
    x = np.arange(2**25, dtype=np.uint32) + np.array([4.0], F).view(np.uint32)
    x = x.astype(np.uint32).view(F)
    y = np.concatenate([full("Sigmoid")(part) for part in np.split(x, 512)])
    if not (y > 1).any():
        pytest.skip("this build's Sigmoid stays below one")
    at, value = float(x[y.argmax()]), float(y.max())
    rounding = dataclasses.replace(FLOAT32, kernels={"Sigmoid": (1.78e-7, 0.0)})
    op = nn.Sigmoid().double()
    box = rule_for(op).interval(op, point([at]), rounding=rounding)
    assert float(box.upper) >= value > min(1.0, float(box.upper))
    small = dataclasses.replace(FLOAT32, kernels={"Sigmoid": (1e-8, 0.0)})
    assert float(rule_for(op).interval(op, point([at]), rounding=small).upper) < value


def test_an_error_beyond_the_largest_kernel_value_is_infinite():
    rounding = dataclasses.replace(FLOAT32, kernels={"Exp": (1e-38, 1e-7)})
    error = rounding.kernel("Exp", torch.tensor([1.0, 2.0**127, torch.nan], dtype=torch.float64))
    assert 1e-7 <= float(error[0]) < 1.1e-7
    assert not error[1:].isfinite().any()


def test_a_norm_of_tiny_coefficients_is_not_zero():
    """Squares of 2^-540 underflow: the ball would have no radius."""
    form = LinearForm(torch.full((1, 1, 4), 2.0**-540, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    least = REAL.ball_minimum(form, torch.zeros(1, 4, dtype=torch.float64), 1.0)
    assert float(least) <= -2.0 * 2.0**-540


@pytest.mark.parametrize("op", [ops.Concat(1), ops.Pad((0, 3), value=0.7)], ids=["concat", "pad"])
def test_constants_joined_in_are_summed_with_rounding(op):
    """``<A, constant>`` is a computed sum, whether or not the operator itself rounds."""
    if isinstance(op, ops.Concat):
        constant = torch.tensor([[1.0, *[1.01 * W] * 40]], dtype=torch.float64)
        inputs = [constant, point([0.0])]
        coeff = torch.ones(1, 1, 42, dtype=torch.float64)
    else:
        inputs = [point([0.0])]
        coeff = torch.tensor([0.0, 1, 2.0**-30, -1], dtype=torch.float64).reshape(1, 1, 4)
    form = LinearForm(coeff, torch.zeros(1, 1, dtype=torch.float64))
    relaxation = rule_for(op).relax(op, *inputs, rounding=REAL)
    assert relaxation.slack is not None
    constants = relaxation.constant.abs().reshape(-1)
    charged = float((coeff.reshape(-1).abs() * relaxation.slack.expand(1, coeff.shape[-1]).reshape(-1)).sum())
    assert charged >= gamma(coeff.shape[-1], W) * float(constants @ coeff.reshape(-1).abs())
    assert form.const.shape == (1, 1)


def test_a_form_is_minimised_whatever_the_order_of_its_products(monkeypatch):
    """One by one behind a large one, small products are lost: the bound must allow for that, though PyTorch rarely does it."""
    n = 4000
    form = LinearForm(torch.ones(1, 1, n, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    center = torch.full((1, n), -0.99 * W, dtype=torch.float64)
    center[0, 0] = -1
    true = sum((Fraction(v) for v in center[0].tolist()), Fraction(0))

    def in_order(coeff, value):
        total = torch.zeros(coeff.shape[:2], dtype=torch.float64)
        for i in range(n):
            total = total + coeff[..., i] * value[:, i]
        return total

    monkeypatch.setattr(outward, "dot", in_order)
    bound = REAL.minimum(form, Interval(center, torch.zeros_like(center)))
    assert Fraction(in_order(form.coeff, center).item()) > true
    assert Fraction(bound.item()) <= true


@pytest.mark.parametrize("center", [1.0, -1.0, 3.0e300, 0.0])
def test_the_ends_of_an_interval_are_outside_it(center):
    box = Interval(*(torch.tensor([v], dtype=torch.float64) for v in (center, 2.0**-60 * max(abs(center), 1))))
    c, r = Fraction(box.center.item()), Fraction(box.radius.item())
    assert Fraction(box.lower.item()) <= c - r
    assert Fraction(box.upper.item()) >= c + r
