"""Adversarial float32 executions stay inside the boxes of single operators, and above the margins of whole networks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.bounds.margins import MarginBounds
from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.core.threat import LinfBall
from pipeline.methods import METHODS
from pipeline.rules import rule_for
from tests import nets
from tests.bounds.executor import Execution, F, executions, matrix, run
from tests.bounds.test_rounding import absorbing_network

REAL, FLOAT32 = Outward(deployed=False), Outward(deployed=True)

LAYERS = {
    "linear": (nn.Linear(40, 7), (40,)),
    "no bias": (nn.Linear(40, 7, bias=False), (40,)),
    "conv": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 5, 5)),
    "grouped": (nn.Conv2d(4, 8, (3, 2), dilation=(1, 2), groups=2), (4, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, bias=False), (6, 4, 4)),
}


@pytest.mark.parametrize("scale", [1.0, 2.0**60, 2.0**-70, 2.0**-130], ids=["1", "2^60", "2^-70", "2^-130"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_any_order(name, scale):
    op, shape = LAYERS[name]
    op = op.double()
    generator = np.random.default_rng(1)
    for hard in ("normal", "cancelling", "spread"):
        with torch.no_grad():
            for p in op.parameters():
                values = generator.standard_normal(p.shape)
                if hard == "cancelling":
                    values = np.sign(values) * (1 + generator.random(p.shape) * 2.0**-12)
                elif hard == "spread":
                    values = values * 10.0 ** generator.integers(-6, 6, p.shape)
                p.copy_(torch.from_numpy((values * scale).astype(F)).double())
        w, b = matrix(op, shape)
        x = (generator.random((1, *shape)) + 0.5).astype(F)
        point = torch.from_numpy(x).double()
        box = rule_for(op).interval(op, Interval(point, torch.zeros_like(point)), rounding=FLOAT32)
        for how in executions(seed=2):
            y = torch.from_numpy(how(w, b, x.reshape(-1))).double()
            inside = (y - box.center.flatten()).abs() <= box.radius.flatten()
            assert bool(inside.all()), f"{how}, {hard}"


@pytest.mark.parametrize("scale", [1.0, 2.0**100, 2.0**-130])
def test_means_and_sums_in_any_order(scale):
    generator = np.random.default_rng(3)
    x = (generator.standard_normal((1, 3, 4, 4)) * scale).astype(F)
    point = torch.from_numpy(x).double()
    cases = [
        (nn.AvgPool2d(2), 4, x.reshape(1, 3, 2, 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(-1, 4)),
        (ops.ReduceMean((2, 3), keepdim=False), 16, x.reshape(-1, 16)),
        (ops.ReduceSum((2, 3), keepdim=False), 1, x.reshape(-1, 16)),
    ]
    for op, divisor, rows in cases:
        box = rule_for(op).interval(op, Interval(point, torch.zeros_like(point)), rounding=FLOAT32)
        for how in executions(seed=4):
            sums = np.array([how(np.ones((1, len(r)), F), np.zeros(1, F), r)[0] for r in rows])
            for y in (sums / F(divisor), sums * F(1 / divisor)):
                inside = (torch.from_numpy(y.astype(F)).double() - box.center.flatten()).abs() <= box.radius.flatten()
                assert bool(inside.all()), f"{how}, {type(op).__name__}"


def test_a_residual_fused_into_the_accumulator():
    """``conv + z`` with the addend first: every product is added to it, as FusedConv does."""
    k, u = 400, 2.0**-24
    d = nets.Drawing(0)
    x = d.input(k)
    first = d(nn.Linear(k, 1, bias=False), x)
    network = d.finish(d(ops.Add(), first, d(ops.Slice((0,), (1,), (1,), (1,)), x)), shapes=((None, 1),))
    layer = next(m for m in network.graph.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        layer.weight.fill_(0.99 * u)
        layer.weight[0, 0] = 0
    from pipeline.bounds.ibp import IntervalWalk

    network = network.in_float64()
    point = torch.ones(1, k, dtype=torch.float64)
    box = IntervalWalk(network, FLOAT32).boxes([Interval(point, torch.zeros_like(point))])[-1]
    weights = np.full((1, k), 0.99 * u, F)
    weights[0, 0] = 0
    fused = float(Execution("given")(weights, np.ones(1, F), np.ones(k, F))[0])
    assert fused == 1.0
    assert float(box.lower) <= fused <= float(box.upper)
    assert fused < float(box.center) - 0.9 * k * u, "nothing was absorbed: too easy a test"


def residual_net(seed: int):
    """conv, BN, ReLU, conv, BN, residual add, ReLU, Linear."""
    d = nets.Drawing(seed)
    x = d(nn.ReLU(), d(nn.BatchNorm2d(6), d(nn.Conv2d(2, 6, 3, padding=1), d.input(2, 4, 4))))
    branch = d(nn.BatchNorm2d(6), d(nn.Conv2d(6, 6, 3, padding=1, bias=False), x))
    x = d(nn.Flatten(), d(nn.ReLU(), d(ops.Add(), branch, x)))
    return d.finish(d(nn.Linear(96, 4), x), shapes=((None, 4),))


def spread_mlp(seed: int):
    """6-17-5-4 with weights of sizes from 1e-3 to 1e3, so that sums cancel."""
    network = nets.mlp(6, 17, 5, 4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(10.0 ** torch.randint(-3, 4, p.shape, generator=generator))
    return network


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [lambda s: nets.mlp(6, 17, 5, 4, seed=s), spread_mlp, residual_net])
def test_no_execution_has_a_margin_below_its_bound(make, method):
    for seed in range(2):
        network = make(seed)
        shape = [d for d in network.inputs[0].shape if d]
        x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))
        for eps in ("0", "1/100000000", "1/50"):
            box = LinfBall(Fraction(eps)).box(x.double())
            label = network.in_float64()(x.double()).argmax(1)
            rows = MarginBounds(network.in_float64(), FLOAT32, method=method).least(box, label)
            points = [x.numpy(), (box.center + box.radius * torch.randn(x.shape).sign()).clamp(0, 1).float().numpy()]
            for i, how in enumerate(executions(seed)):
                point = points[i % 2].astype(np.float64)
                inside = (torch.from_numpy(point) - box.center).abs() <= box.radius
                point = np.where(inside.numpy(), point, x.numpy()).astype(F)
                z = run(network, point, how, folded=i % 3 == 0).reshape(-1).astype(np.float64)
                margin = z[int(label)] - np.delete(z, int(label)).max()
                assert float(rows[0]) <= margin, f"{how} at eps {eps}"


@pytest.mark.parametrize("method", METHODS)
def test_ce1_is_refused_by_every_method_and_real_arithmetic_certifies_it(method):
    network = absorbing_network()
    box = LinfBall(Fraction("0.05")).box(torch.ones(1, 512, dtype=torch.float64))
    label = torch.tensor([0])
    z = run(network, np.ones((1, 512), F), Execution("given"), folded=False).reshape(-1)
    assert z[0] < z[1], "absorption is what this test is about"
    exact = network.in_float64()
    assert float(MarginBounds(exact, REAL, method=method).least(box, label)) > 0
    assert float(MarginBounds(exact, FLOAT32, method=method).least(box, label)) <= float(z[0] - z[1])


@pytest.mark.parametrize("method", METHODS)
def test_tighter_modes_and_smaller_boxes_never_have_lower_margins(method):
    network = residual_net(5).in_float64()
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    labels = network(x).argmax(1)
    last = None
    for eps in ("0", "1/1000", "8/255"):
        box = LinfBall(Fraction(eps)).box(x)
        real, deployed = (MarginBounds(network, r, method=method).least(box, labels) for r in (REAL, FLOAT32))
        assert bool((deployed <= real + 1e-9).all())
        assert last is None or bool((deployed <= last + 1e-6).all())
        last = deployed


def test_a_batch_norm_whose_constants_cancel():
    """``beta - s mean`` is zero, and what a runtime computes of it is not."""
    bn = nn.BatchNorm1d(1, eps=0.0, affine=True).double().eval()
    with torch.no_grad():
        bn.weight.fill_(float(F(0.1)))
        bn.running_mean.fill_(float(F(2.0**20 + 0.125)))
        bn.bias.copy_(bn.weight * bn.running_mean)
    rule, zero = rule_for(bn), torch.zeros(1, 1, dtype=torch.float64)
    magnitude = rule.offset(bn, Interval(zero, zero))
    assert float(magnitude) >= 2 * float(bn.bias)
    scale, bias = F(bn.weight.item()), F(bn.bias.item())
    deployed = F(bias - F(scale * F(bn.running_mean.item())))
    box = rule.interval(bn, Interval(zero, zero), rounding=FLOAT32)
    assert float((box.center - box.radius).min()) <= float(deployed) <= float((box.center + box.radius).max())
