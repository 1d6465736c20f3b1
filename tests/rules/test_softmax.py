"""Softmax and LogSoftmax inside a network: exact ends, planes of second order, and what must not be decided."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
import torch
from torch import nn

from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT
from pipeline.errors import InputRejected
from pipeline.rules import rule_for
from tests import laws

REAL = Outward(deployed=False)
KERNELS = Outward(deployed=True, kernels={"Softmax": (2.0**-110, 4e-7)})
OPS = [nn.Softmax(-1), nn.LogSoftmax(-1)]
NAMES = ["softmax", "log softmax"]


def draw(*shape: int, radius: float = 1.0, spread: float = 1.0) -> Interval:
    generator = torch.Generator().manual_seed(1)
    center = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
    return Interval(center, torch.rand(shape, generator=generator, dtype=torch.float64) * radius)


def rows(n: int) -> torch.Tensor:
    """Every output from below and from above."""
    return torch.cat([torch.eye(n), -torch.eye(n)])[:, None].double()


@pytest.mark.parametrize("op", OPS, ids=NAMES)
def test_the_box_is_attained(op):
    """Its own entry at one end, all others at the opposite one."""
    x = draw(1, 6)
    box = rule_for(op).interval(op, x, rounding=REAL)
    for i in range(6):
        for sign in (-1.0, 1.0):
            corner = x.center - sign * x.radius
            corner[0, i] = x.center[0, i] + sign * x.radius[0, i]
            assert torch.isclose((box.center + sign * box.radius)[0, i], op(corner)[0, i], rtol=1e-9)


@pytest.mark.pairwise
@pytest.mark.parametrize("op", OPS, ids=NAMES)
@pytest.mark.parametrize("radius", [3.0, 0.5, 1e-2, 1e-9])
@pytest.mark.parametrize("spread", [1.0, 20.0])
@pytest.mark.parametrize("rounding", [EXACT, REAL, KERNELS], ids=["none", "real", "float32"])
def test_planes_are_below_dense_samples(op, radius, spread, rounding):
    n, x = 5, draw(1, 5, radius=radius, spread=spread)
    form = LinearForm(rows(n), torch.zeros(2 * n, 1).double())
    (pulled,) = rule_for(op).relax(op, x, rounding=rounding).pull_back(form)
    weight = torch.rand(20000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    weight[::2] = weight[::2].sign()
    points = x.center + weight * x.radius
    y = op(points) @ form.coeff[:, 0].T
    below = points @ pulled.coeff[:, 0].T + pulled.const[:, 0]
    assert float((y - below).min()) >= (-1e-13 if rounding is not EXACT else -1e-12)


def exactly(op: nn.Module, x: list[Decimal]) -> list[Decimal]:
    powers = [(v - max(x)).exp() for v in x]
    share = [p / sum(powers) for p in powers]
    return share if isinstance(op, nn.Softmax) else [p.ln() for p in share]


@pytest.mark.parametrize("op", OPS, ids=NAMES)
@pytest.mark.parametrize(
    "center", [[99946.8, 99916.9, 99937.4], [-1e6, -1e6, -1e6 - 1], [130.4, 255.6, -116.7], [3.0, 2.0, 1.0]]
)
def test_planes_hold_to_the_last_bit(op, center):
    """Where large entries cancel, and where probabilities leave little of a float's digits: no tolerance is granted."""
    x = Interval(torch.tensor([center]).double(), torch.tensor([[1e-9, 1e-9, 0.0]]).double())
    form = LinearForm(rows(3), torch.zeros(6, 1).double())
    (pulled,) = rule_for(op).relax(op, x, rounding=REAL).pull_back(form)
    with localcontext() as context:
        context.prec = 400
        for (point,) in laws.points(op, [x], seed=0):
            entries = [Decimal(v) for v in point[0].tolist()]
            y = exactly(op, entries)
            for row, value in enumerate((*y, *(-v for v in y))):
                below = sum(Decimal(a) * v for a, v in zip(pulled.coeff[row, 0].tolist(), entries, strict=True))
                assert below + Decimal(float(pulled.const[row, 0])) <= value


@pytest.mark.parametrize("op", OPS, ids=NAMES)
def test_on_small_boxes_planes_are_tighter_than_constants_by_an_order(op):
    gaps = []
    for radius in (1e-2, 1e-3):
        x = draw(1, 6, radius=radius)
        form = LinearForm(rows(6), torch.zeros(12, 1).double())
        (pulled,) = rule_for(op).relax(op, x).pull_back(form)
        at_center = (op(x.center) @ form.coeff[:, 0].T) - (x.center @ pulled.coeff[:, 0].T + pulled.const[:, 0])
        box = rule_for(op).interval(op, x)
        assert float(at_center.max()) < 0.1 * float(box.radius.max())
        gaps.append(float(at_center.max()))
    assert gaps[1] < gaps[0] / 50


@pytest.mark.parametrize("op", OPS, ids=NAMES)
def test_planes_are_never_worse_than_constants_in_the_middle(op):
    x = draw(1, 6, radius=4.0)
    form = LinearForm(rows(6), torch.zeros(12, 1).double())
    (pulled,) = rule_for(op).relax(op, x).pull_back(form)
    middle = (x.center @ pulled.coeff[:, 0].T + pulled.const[:, 0])[0]
    lower, upper = EXACT.ends(rule_for(op).interval(op, x))
    assert bool((middle >= torch.cat([lower[0], -upper[0]]) - 1e-12).all())


def test_a_plane_that_is_too_high_fails():
    op, x = nn.Softmax(-1), draw(1, 5)
    relaxation = rule_for(op).relax(op, x)
    wrong = replace(relaxation, below=replace(relaxation.below, offset=relaxation.below.offset + 0.1))
    (pulled,) = wrong.pull_back(LinearForm(rows(5)[:5], torch.zeros(5, 1).double()))
    y = torch.cat([op(*p) for p in laws.points(op, [x], seed=0, draws=200)])
    points = torch.cat([p[0] for p in laws.points(op, [x], seed=0, draws=200)])
    assert float((y - points @ pulled.coeff[:, 0].T - pulled.const[:, 0]).min()) < 0


@pytest.mark.parametrize("op", OPS, ids=NAMES)
def test_entries_far_apart_stay_finite_and_what_is_undefined_stays_so(op):
    far = Interval(torch.tensor([[-400.0, 0.0, 250.0]]).double(), torch.full((1, 3), 5.0).double())
    box = rule_for(op).interval(op, far, rounding=REAL)
    assert bool(box.radius.isfinite().all())
    for point in laws.points(op, [far], seed=0):
        assert laws.violation(box, op(*point)) <= 1e-15  # the evaluation of the point rounds too
    form = LinearForm(rows(3), torch.zeros(6, 1).double())
    for bad in (torch.nan, torch.inf):
        broken = Interval(far.center, torch.tensor([[1.0, bad, 1.0]]).double())
        box = rule_for(op).interval(op, broken, rounding=REAL)
        assert not bool((box.lower > 0.0).any() & box.radius.isfinite().all())
        (pulled,) = rule_for(op).relax(op, broken, rounding=REAL).pull_back(form)
        assert not bool(REAL.minimum(pulled, broken).isfinite().any())


@pytest.mark.parametrize("op", OPS, ids=NAMES)
def test_float32_is_refused_by_name_without_a_measured_exponential(op):
    for ask in (rule_for(op).interval, rule_for(op).relax):
        with pytest.raises(InputRejected, match="--measure-kernels Softmax"):
            ask(op, draw(1, 5), rounding=Outward(deployed=True))
