"""Operators of several inputs and of windows: tightness against dense samples, and planes that must fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT
from pipeline.errors import InputRejected
from pipeline.rules import rule_for
from tests import laws

MODES = [EXACT, Outward(deployed=False), Outward(deployed=True)]
IDS = ["none", "real", "float32"]


def draw(*shape: int, seed: int = 0, radius: float = 1.0, shift: float = 0.0) -> Interval:
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(shape, generator=generator, dtype=torch.float64) + shift
    return Interval(center, torch.rand(shape, generator=generator, dtype=torch.float64) * radius)


def gap(op: nn.Module, *xs: Interval | torch.Tensor, rounding=EXACT, alpha=None, draws: int = 4000, seed: int = 3):
    """The least ``<A, f(x)> - (pulled form)`` and the value's own size over dense samples, corners among them."""
    rule = rule_for(op)
    relaxation = rule.relax(op, *xs, rounding=rounding)
    generator = torch.Generator().manual_seed(seed)
    shape = op(*(x.center if isinstance(x, Interval) else x for x in xs)).shape
    coeff = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    choice = None
    if alpha is not None and relaxation.start is not None:
        size = relaxation.start[:, None].expand(-1, 6, *relaxation.start.shape[1:]).shape
        choice = (
            torch.rand(size, generator=generator, dtype=torch.float64) if alpha == "random" else torch.full(size, alpha)
        )
    pulled = relaxation.pull_back(LinearForm(coeff, torch.zeros(6, shape[0], dtype=torch.float64)), choice)
    least = torch.full((6, shape[0]), torch.inf, dtype=torch.float64)
    for i in range(draws):
        point = []
        for x in xs:
            if not isinstance(x, Interval):
                point.append(x)
                continue
            w = torch.rand(x.center.shape, generator=generator, dtype=torch.float64) * 2 - 1
            point.append(laws.inside(x, w.sign() if i % 2 else w))
        y = _dot(coeff, op(*point))
        below = sum(f.const + _dot(f.coeff, v) for f, v in zip(pulled, point, strict=True) if f is not None)
        least = torch.minimum(least, y - below)
    return float(least.min())


def _dot(coeff, value):
    return (coeff * value).flatten(2).sum(2) if coeff.dim() > 2 else coeff * value


CASES = {
    "product": (ops.Product(), draw(2, 6), draw(2, 6, seed=1)),
    "product of signs": (ops.Product(), draw(2, 6, shift=3.0), draw(2, 6, seed=1, shift=-3.0)),
    "broadcast product": (ops.Product(), draw(2, 4, 3), draw(2, 4, 1, seed=1)),
    "quotient": (ops.Quotient(), draw(2, 6), draw(2, 6, seed=1, radius=0.3, shift=4.0)),
    "quotient by a negative": (ops.Quotient(), draw(2, 6), draw(2, 6, seed=1, radius=0.3, shift=-4.0)),
    "constant over a value": (ops.Quotient(), torch.randn(6).double(), draw(2, 6, seed=1, radius=0.3, shift=4.0)),
    "matrices": (ops.MatrixProduct(), draw(2, 2, 3), draw(2, 3, 2, seed=1)),
    "greater": (ops.Max(), draw(2, 6), draw(2, 6, seed=1)),
    "less than a constant": (ops.Min(), draw(2, 6), torch.randn(6).double()),
    "windows": (nn.MaxPool2d(2, stride=1), draw(2, 2, 3, 3)),
}


@pytest.mark.parametrize("rounding", MODES, ids=IDS)
@pytest.mark.parametrize("case", CASES)
def test_planes_lie_below_dense_samples_and_nearly_touch(case, rounding):
    op, *xs = CASES[case]
    assert gap(op, *xs, rounding=rounding, draws=400) >= -1e-12
    # On a box a thousand times smaller the loss is of second order: planes and function have one slope there, or a kink.
    small = [Interval(x.center, x.radius * 1e-3) if isinstance(x, Interval) else x for x in xs]
    assert gap(op, *small, rounding=rounding, draws=400) <= (3e-5 if rounding.deployed else 2e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0, "random"])
@pytest.mark.parametrize("case", [c for c in CASES if "product" in c or "quotient" in c or c == "matrices"])
def test_every_choice_of_mccormick_planes_is_below(case, alpha):
    op, *xs = CASES[case]
    for rounding in MODES:
        assert gap(op, *xs, rounding=rounding, alpha=alpha, draws=400) >= -1e-12


@pytest.mark.parametrize("rounding", MODES, ids=IDS)
def test_a_product_is_the_hull_of_four(rounding):
    x, y = draw(3, 9), draw(3, 9, seed=1)
    got = rule_for(ops.Product()).interval(ops.Product(), x, y, rounding=rounding)
    corners = torch.stack([a * b for a in EXACT.ends(x) for b in EXACT.ends(y)])
    slack = 1e-5 if rounding.deployed else 1e-12
    assert bool((got.lower <= corners.amin(0)).all()) or rounding is EXACT
    assert bool((got.upper >= corners.amax(0)).all()) or rounding is EXACT
    assert torch.allclose(got.center - got.radius, corners.amin(0), atol=slack)
    assert torch.allclose(got.center + got.radius, corners.amax(0), atol=slack)


def test_a_square_knows_that_it_is_not_negative():
    op, x = ops.Product(), draw(3, 9, radius=2.0)
    box = rule_for(op).interval(op, x, x)
    assert bool((box.center - box.radius >= -1e-15).all())
    for rounding in MODES:
        relaxation = rule_for(op).relax(op, x, x, rounding=rounding)
        form = LinearForm(torch.randn(5, 3, 9).double(), torch.zeros(5, 3).double())
        for alpha in (None, torch.rand(2, 5, 3, 9).double()):
            a, b = relaxation.pull_back(form, alpha)
            for w in torch.linspace(-1, 1, 41):
                p = laws.inside(x, torch.full_like(x.center, float(w)))
                below = a.const + b.const + _dot(a.coeff + b.coeff, p)
                assert bool((below <= _dot(form.coeff, p * p) + 1e-12).all())
    # Below, the tangent at the center touches there.
    up = LinearForm(torch.ones(1, 3, 9).double(), torch.zeros(1, 3).double())
    a, b = rule_for(op).relax(op, x, x).pull_back(up)
    touched = a.const + b.const + _dot(a.coeff + b.coeff, x.center)
    assert torch.allclose(touched, (x.center**2).sum(1)[None])


def test_a_divisor_that_may_be_zero_is_undefined_and_never_decided():
    op, x = ops.Quotient(), draw(2, 3)
    zero = Interval(torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.5, -3.0]]).double(), torch.ones(2, 3).double())
    defined = torch.tensor([[False, False, True], [False, False, True]])
    for rounding in MODES:
        box = rule_for(op).interval(op, x, zero, rounding=rounding)
        # [0, 2] ends at zero: only where nothing is rounded outward its end may be taken as outside.
        assert torch.equal(box.radius.isfinite(), defined)
        form = LinearForm(torch.ones(1, 2, 3).double(), torch.zeros(1, 2).double())
        assert bool(rule_for(op).relax(op, x, zero, rounding=rounding).pull_back(form)[0].const.isnan().all())


def test_values_that_overflow_float32_are_never_decided():
    huge = Interval(torch.full((1, 3), 1e30).double(), torch.ones(1, 3).double())
    box = rule_for(ops.Product()).interval(ops.Product(), huge, huge, rounding=Outward(deployed=True))
    assert bool(box.radius.isinf().all())
    matrix = Interval(torch.full((1, 2, 2), 1e30).double(), torch.ones(1, 2, 2).double())
    box = rule_for(ops.MatrixProduct()).interval(ops.MatrixProduct(), matrix, matrix, rounding=Outward(deployed=True))
    assert bool(box.radius.isinf().all())


def test_a_float32_matrix_product_in_any_order_stays_inside():
    """Cancelling sums, evaluated forwards, backwards and in pairs."""
    op, n = ops.MatrixProduct(), 64
    big = torch.tensor([2.0**24, 1.0, -(2.0**24)] * 22)[: n - 1].double()
    row, column = torch.cat([big, torch.ones(1).double()]).reshape(1, 1, n), torch.ones(1, n, 1).double()
    point = [Interval(v, torch.zeros_like(v)) for v in (row, column)]
    box = rule_for(op).interval(op, *point, rounding=Outward(deployed=True))
    real = rule_for(op).interval(op, *point, rounding=Outward(deployed=False))
    for order in (range(n), reversed(range(n)), torch.randperm(n).tolist()):
        total = torch.zeros((), dtype=torch.float32)
        for i in order:
            total = total + row[0, 0, i].float() * column[0, i, 0].float()
        assert laws.violation(box, total.double().reshape(1, 1, 1)) <= 0
    assert float(real.radius) < 1e-4


@pytest.mark.parametrize("case", ["product", "matrices", "windows", "greater"])
def test_a_wrong_plane_fails(case):
    """The harness can fail: McCormick without its constant, a maximum over the wrong entry."""
    op, *xs = CASES[case]
    rule = rule_for(op)
    relaxation = rule.relax(op, *xs)
    if case in ("product", "matrices"):
        wrong = replace(relaxation, y=Interval(relaxation.y.center, relaxation.y.radius * 0.5))
    else:
        contest = replace(relaxation.contest, offset=relaxation.contest.offset - 0.3)
        wrong = replace(relaxation, contest=contest)
    coeff = torch.randn(6, *op(*(x.center for x in xs)).shape, dtype=torch.float64)
    pulled = wrong.pull_back(LinearForm(coeff, torch.zeros(6, 2, dtype=torch.float64)))
    worst = min(
        float((_dot(coeff, op(*p)) - sum(f.const + _dot(f.coeff, v) for f, v in zip(pulled, p, strict=True))).min())
        for p in laws.points(op, list(xs), seed=3, draws=60)
    )
    assert worst < 0


@pytest.mark.parametrize("make", [nn.MaxPool2d, nn.MaxPool1d], ids=["2d", "1d"])
def test_a_window_that_one_entry_dominates_is_exact(make):
    rank = 2 if make is nn.MaxPool2d else 1
    x = draw(2, 3, *[5] * rank, radius=1e-6)
    op = make(3, stride=2, padding=1)
    assert not bool(rule_for(op).loose(op, x).any())
    y = op(x.center)
    form = LinearForm(torch.randn(4, *y.shape).double(), torch.zeros(4, 2).double())
    (pulled,) = rule_for(op).relax(op, x).pull_back(form)
    assert torch.allclose(pulled.const + _dot(pulled.coeff, x.center), _dot(form.coeff, y))


def test_only_entries_that_may_win_an_open_window_are_loose():
    op = nn.MaxPool1d(2)
    x = Interval(torch.tensor([[[0.0, 1.0, 0.0, 5.0, 1.0, 1.0]]]).double(), torch.tensor(1.0).double().expand(1, 1, 6))
    assert rule_for(op).loose(op, x).tolist() == [[[True, True, False, False, True, True]]]
    three = Interval(torch.tensor([[0.0, 4.0, 4.5]]).double(), torch.ones(1, 3).double())
    assert rule_for(ops.ReduceMax((1,), keepdim=False)).loose(ops.ReduceMax((1,), keepdim=False), three).tolist() == [
        [False, True, True]
    ]


def test_the_line_over_a_window_is_nowhere_above_the_constant():
    op, x = nn.MaxPool2d(3, stride=2, padding=1), draw(3, 8, 7, 7)
    form = LinearForm(-torch.eye(3 * 8 * 16, dtype=torch.float64).reshape(-1, 3, 8, 4, 4), torch.zeros(384, 3).double())
    (pulled,) = rule_for(op).relax(op, x).pull_back(form)
    least = EXACT.minimum(pulled, x)
    box = rule_for(op).interval(op, x)
    assert torch.allclose(
        -least.reshape(3, 128, 3).diagonal(dim1=0, dim2=2).T.reshape(3, 8, 4, 4), box.center + box.radius
    )


@pytest.mark.parametrize("op", [ops.Add(), ops.Mul()])
def test_coefficients_over_another_batch_are_refused(op):
    """They would be added over the samples, and one would answer for another."""
    xs = (draw(1, 4), torch.ones(4, dtype=torch.float64))
    with pytest.raises(InputRejected, match="broadcast over the batch"):
        rule_for(op).transpose(op, torch.ones(2, 3, 4, dtype=torch.float64), *xs)
