"""LayerNorm and InstanceNorm: attained limits, planes of second order, and what must not be decided."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT
from pipeline.rules import rule_for
from tests import laws

REAL = Outward(deployed=False)
DEPLOYED = Outward(deployed=True)
CASES = {
    "layer": (lambda: nn.LayerNorm(5), (1, 5)),
    "layer of groups": (lambda: nn.LayerNorm(3), (1, 2, 3)),
    "instance": (lambda: nn.InstanceNorm1d(2, affine=True), (1, 2, 4)),
}


def draw(case: str, radius: float) -> tuple[nn.Module, Interval]:
    make, shape = CASES[case]
    op = laws.randomise(make(), seed=1)
    x = laws.box(shape, "wide", torch.Generator().manual_seed(2))
    return op, Interval(x.center, x.radius * radius)


def rows(shape: torch.Size) -> LinearForm:
    """Every output from below and from above."""
    eye = torch.eye(shape.numel(), dtype=torch.float64)
    return LinearForm(torch.cat([eye, -eye]).reshape(-1, *shape), torch.zeros(2 * len(eye), 1, dtype=torch.float64))


def excess(op: nn.Module, x: Interval, form: LinearForm, pulled: LinearForm, points: torch.Tensor) -> torch.Tensor:
    """By how much values exceed the pulled forms at points: (points, rows)."""
    y = op(points.flatten(0, 1)).reshape(len(points), -1) @ form.coeff.flatten(1).T
    return y - points.reshape(len(points), -1) @ pulled.coeff.flatten(1).T - pulled.const[:, 0]


def samples(x: Interval, n: int = 20000) -> torch.Tensor:
    weight = torch.rand(n, *x.center.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    weight[::2] = weight[::2].sign()
    return x.center + weight * x.radius


@pytest.mark.pairwise
@pytest.mark.parametrize("rounding", [EXACT, REAL, DEPLOYED], ids=["none", "real", "float32"])
@pytest.mark.parametrize("radius", [10.0, 1.0, 1e-2, 1e-7])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_boxes_and_planes_hold_dense_samples(case, radius, rounding):
    op, x = draw(case, radius)
    form, points = rows(x.center.shape), samples(x)
    box, y = rule_for(op).interval(op, x, rounding=rounding), op(points.flatten(0, 1))
    if rounding is DEPLOYED and not box.radius.isfinite().all():
        # All entries of a group may be equal, and what the variance then loses is not bounded.
        assert case == "instance"
        assert radius >= 1
        return
    (pulled,) = rule_for(op).relax(op, x, rounding=rounding).pull_back(form)
    assert float(excess(op, x, form, pulled, points).min()) >= -1e-12
    assert float(torch.maximum(box.lower - y, y - box.upper).max()) <= 1e-12


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_what_planes_lose_is_of_second_order(case):
    gaps = []
    for radius in (1e-2, 1e-3):
        op, x = draw(case, radius)
        form = rows(x.center.shape)
        (pulled,) = rule_for(op).relax(op, x).pull_back(form)
        gaps.append(float(excess(op, x, form, pulled, x.center[None]).max()))
        assert gaps[-1] < 0.2 * float(rule_for(op).interval(op, x).radius.max())
    assert gaps[1] < gaps[0] / 50


@torch.no_grad()
def test_no_entry_of_n_exceeds_the_root_of_n_minus_one():
    op, x = (
        nn.LayerNorm(9, elementwise_affine=False).double(),
        Interval(torch.randn(1, 9).double(), 1e3 * torch.ones(1, 9).double()),
    )
    box = rule_for(op).interval(op, x, rounding=REAL)
    assert float((box.center.abs() + box.radius).max()) <= 8**0.5 * (1 + 1e-12)


@torch.no_grad()
def test_a_tangent_without_its_loss_fails():
    op, x = draw("layer", 0.1)
    form = rows(x.center.shape)
    right = rule_for(op).relax(op, x)
    assert bool(right.curved.any())
    wrong = replace(right, below=replace(right.below, offset=right.below.offset + 0.1))
    (pulled,) = wrong.pull_back(form)
    assert float(excess(op, x, form, pulled, samples(x)).min()) < 0


@torch.no_grad()
def test_what_is_undefined_is_never_decided():
    op, x = draw("layer", 1.0)
    for bad in (torch.nan, torch.inf):
        radius = x.radius.clone()
        radius[0, 2] = bad
        broken = Interval(x.center, radius)
        assert bool(rule_for(op).interval(op, broken, rounding=REAL).radius.isnan().all())
        (pulled,) = rule_for(op).relax(op, broken, rounding=REAL).pull_back(rows(x.center.shape))
        assert not bool(REAL.minimum(pulled, broken).isfinite().any())


@pytest.mark.parametrize("case", CASES)
def test_a_mean_far_beyond_the_deviations_is_not_decided(case):
    """The difference of two squares may have lost every digit of the variance."""
    op, x = draw(case, 1e-6)
    far = Interval(x.center * 1e-3 + 4096.0, x.radius)
    assert rule_for(op).interval(op, x, rounding=DEPLOYED).radius.isfinite().all()
    assert not rule_for(op).interval(op, far, rounding=DEPLOYED).radius.isfinite().any()
    assert rule_for(op).interval(op, far, rounding=REAL).radius.isfinite().all()


@pytest.mark.parametrize("rounding", [REAL, DEPLOYED], ids=["real", "float32"])
@torch.no_grad()
def test_one_entry_alone_becomes_the_bias(rounding):
    op, x = laws.randomise(nn.LayerNorm(1), seed=1), laws.box((1, 3, 1), "wide", torch.Generator().manual_seed(2))
    box, form = rule_for(op).interval(op, x, rounding=rounding), rows(x.center.shape)
    (pulled,) = rule_for(op).relax(op, x, rounding=rounding).pull_back(form)
    least, slack = rounding.minimum(pulled, x).reshape(2, 3), 1e-9 if rounding is REAL else 4e-3
    assert bool((box.lower <= op.bias).all() & (op.bias <= box.upper).all() & (box.radius < slack).all())
    assert bool((least[0] <= op.bias).all() & (-least[1] >= op.bias).all() & (least.sum(0) > -slack).all())


@pytest.mark.parametrize("eps", [0.0, -0.01, torch.nan])
def test_without_a_positive_epsilon_it_is_refused(eps):
    """Equal entries then have no value, and no box that contains them may be bounded."""
    for op in (nn.LayerNorm(3, eps=eps), nn.InstanceNorm1d(2, eps=eps)):
        assert "epsilon" in rule_for(op).refuses(op, (True,))
        op.eps = 1e-12
        assert rule_for(op).refuses(op, (True,)) is None
