"""Every affine operator against exact rational arithmetic, at scales from 2^-140 to 2^60, with zeros and cancelling pairs."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT
from pipeline.rules import rule_for
from tests.bounds.executor import matrix

REAL, FLOAT32 = Outward(deployed=False), Outward(deployed=True)


def numbers(count: int, low: int = -140, high: int = 60):
    """float32 numbers of every size; zeros; pairs that cancel to the last bits."""
    one = st.builds(
        lambda m, e: float(np.float32(m * 2.0**e)),
        st.integers(-(2**24) + 1, 2**24 - 1),
        st.integers(low - 23, high - 24),
    )
    simple = st.sampled_from([0.0, 1.0, -1.0, 2.0**-126, 2.0**-149, 1 / 3])
    plain = st.lists(one | simple, min_size=count, max_size=count)
    cancelling = st.lists(one, min_size=count, max_size=count).map(
        lambda v: [(-1) ** i * float(np.float32(v[i // 2] * (1 + i * 2.0**-23))) for i in range(count)]
    )
    narrow = st.lists(st.floats(-1, 1, width=32), min_size=count, max_size=count)
    return plain | cancelling | narrow


def exact(v: torch.Tensor | np.ndarray) -> list[Fraction]:
    return [Fraction(x) for x in v.reshape(-1).tolist()]


def corners(box: Interval, signs: list[list[int]]) -> list[list[Fraction]]:
    """The center and some vertices, exact: ``c + s r``."""
    c, r = exact(box.center), exact(box.radius)
    return [[a + s * b for a, s, b in zip(c, row, r, strict=True)] for row in [[0] * len(c), *signs]]


def affine(op: nn.Module, shape: tuple[int, ...], divisor: int) -> tuple[list[list[Fraction]], list[Fraction]]:
    """The operator's exact matrix: that of ``divisor`` times the operator is one of floats."""
    w, b = matrix(op, shape) if divisor == 1 else matrix(_Times(op, divisor), shape)
    if isinstance(op, _With) and not isinstance(op.op, ops.Mul | ops.MatMul):
        w, _ = matrix(_With(op.op, torch.zeros_like(op.constant)), shape)
    return [[Fraction(v) / divisor for v in row] for row in w.tolist()], [Fraction(v) for v in b.tolist()]


class _Times(nn.Module):
    """``op(d x)``."""

    def __init__(self, op: nn.Module, divisor: int):
        super().__init__()
        self.op, self.divisor = op, divisor

    def forward(self, x):
        return self.op(x * self.divisor)


class _With(nn.Module):
    """An operator of two values, one of them constant."""

    def __init__(self, op: nn.Module, constant: torch.Tensor):
        super().__init__()
        self.op, self.constant = op, constant

    def forward(self, x):
        return self.op(x, self.constant)


CASES: dict[str, tuple] = {
    "Linear": (lambda: nn.Linear(5, 2), (5,), 1, None),
    "Conv2d": (lambda: nn.Conv2d(1, 2, 2, padding=1), (1, 2, 2), 1, None),
    "grouped": (lambda: nn.Conv2d(2, 2, 2, groups=2, bias=False), (2, 2, 2), 1, None),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), (1, 2, 4), 4, None),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, stride=1), (1, 5), 3, None),
    "ReduceMean": (lambda: ops.ReduceMean((2,), keepdim=False), (1, 6), 6, None),
    "ReduceSum": (lambda: ops.ReduceSum((1,), keepdim=True), (6,), 1, None),
    "Add": (ops.Add, (4,), 1, (4,)),
    "Sub": (ops.Sub, (4,), 1, (4,)),
    "Mul": (ops.Mul, (4,), 1, (4,)),
    "MatMul": (ops.MatMul, (2, 3), 1, (3, 2)),
    "Concat": (lambda: ops.Concat(1), (3,), 1, (1, 2)),
    "Flatten": (nn.Flatten, (2, 2), 1, None),
}


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_real_images_and_forms(name, data):
    make, shape, divisor, constant = CASES[name]
    op = make().double()
    with torch.no_grad():
        for p in op.parameters():
            p.copy_(torch.tensor(data.draw(numbers(p.numel()))).reshape(p.shape))
    n = int(np.prod(shape))
    center = torch.tensor(data.draw(numbers(n)), dtype=torch.float64).reshape(1, *shape)
    relative = data.draw(st.sampled_from([0.0, 2.0**-60, 1e-8, 0.1, 3.0]))
    box = Interval(center, center.abs() * relative + data.draw(st.sampled_from([0.0, 0.0, 2.0**-149, 1e-3])))
    whole, inputs = op, [box]
    if constant is not None:
        values = torch.tensor(data.draw(numbers(int(np.prod(constant))))).double().reshape(constant)
        whole, inputs = _With(op, values), [box, values]
    w, b = affine(whole, shape, divisor)
    signs = data.draw(st.lists(st.lists(st.sampled_from([-1, 1]), min_size=n, max_size=n), min_size=2, max_size=2))
    images = [
        [sum((f * x for f, x in zip(row, point, strict=True)), c) for row, c in zip(w, b, strict=True)]
        for point in corners(box, signs)
    ]
    for rounding in (REAL, FLOAT32):
        found = rule_for(op).interval(op, *inputs, rounding=rounding)
        check(found, images)
        out = found.center.shape
        coeff = torch.tensor(data.draw(numbers(len(b), -20, 20)), dtype=torch.float64).reshape(1, 1, *out[1:])
        (pulled, *_) = (
            rule_for(op)
            .relax(op, *inputs, rounding=rounding)
            .pull_back(LinearForm(coeff, torch.zeros(1, 1, dtype=torch.float64)))
        )
        least = rounding.minimum(pulled, box)
        for point, image in zip(corners(box, signs), images, strict=True):
            true = sum(a * y for a, y in zip(exact(coeff), image, strict=True))
            below(pulled, point, true)
            if least.isfinite():
                assert Fraction(float(least)) <= true


def check(box: Interval, images: list[list[Fraction]]) -> None:
    for image in images:
        for y, c, r in zip(image, box.center.reshape(-1).tolist(), box.radius.reshape(-1).tolist(), strict=True):
            assert r == np.inf or abs(y - Fraction(c)) <= Fraction(r)


def below(form: LinearForm, point: list[Fraction], true: Fraction) -> None:
    """The pulled form at a point, exactly; what it may lose is charged for all points of the box."""
    if form.const.isfinite() and form.coeff.isfinite().all():
        value = sum(a * x for a, x in zip(exact(form.coeff), point, strict=True)) + Fraction(float(form.const))
        assert value <= true


@given(data=st.data())
def test_batch_norm_with_exact_roots(data):
    """``sqrt(var + eps)`` is a power of two, so that the real function is rational."""
    op = nn.BatchNorm1d(3, eps=0.0).double().eval()
    roots = data.draw(st.lists(st.integers(-20, 20), min_size=3, max_size=3))
    with torch.no_grad():
        op.running_var.copy_(torch.tensor([4.0**e for e in roots]))
        for v in (op.running_mean, op.weight, op.bias):
            v.copy_(torch.tensor(data.draw(numbers(3, -40, 40))))
    center = torch.tensor([data.draw(numbers(3, -40, 40))], dtype=torch.float64)
    box = Interval(center, center.abs() * data.draw(st.sampled_from([0.0, 1e-8, 0.1])))
    scales = [g / Fraction(2) ** e for g, e in zip(exact(op.weight), roots, strict=True)]
    images = [
        [s * (x - m) + b for s, x, m, b in zip(scales, p, exact(op.running_mean), exact(op.bias), strict=True)]
        for p in corners(box, [[1, 1, 1], [-1, 1, -1]])
    ]
    for rounding in (REAL, FLOAT32):
        check(rule_for(op).interval(op, box, rounding=rounding), images)


@given(data=st.data())
def test_division(data):
    op, n = ops.Div(), 3
    divisor = torch.tensor([v or 3.0 for v in data.draw(numbers(n, -40, 40))], dtype=torch.float64)
    center = torch.tensor([data.draw(numbers(n, -40, 40))], dtype=torch.float64)
    box = Interval(center, center.abs() * data.draw(st.sampled_from([0.0, 1e-8, 0.1])))
    images = [[x / d for x, d in zip(p, exact(divisor), strict=True)] for p in corners(box, [[1] * n, [-1] * n])]
    for rounding in (REAL, FLOAT32):
        check(rule_for(op).interval(op, box, divisor, rounding=rounding), images)


@given(data=st.data())
def test_relu_and_its_lines(data):
    op, n = nn.ReLU(), 4
    center = torch.tensor([data.draw(numbers(n))], dtype=torch.float64)
    factor = data.draw(st.sampled_from([0.0, 1 - 2.0**-53, 1.0, 1 + 2.0**-52, 0.1, 1.5, 2.0**40]))
    box = Interval(center, center.abs() * factor)
    points = corners(box, [list(s) for s in itertools.product((-1, 1), repeat=n)])
    images = [[max(x, Fraction(0)) for x in p] for p in points]
    coeff = torch.tensor(data.draw(numbers(n, -20, 20)), dtype=torch.float64).reshape(1, 1, n)
    for rounding in (REAL, FLOAT32):
        check(rule_for(op).interval(op, box, rounding=rounding), images)
        relaxation = rule_for(op).relax(op, box, rounding=rounding)
        alpha = torch.tensor(data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n))).double()
        for choice in (None, alpha.reshape(1, 1, 1, n)):
            (pulled,) = relaxation.pull_back(LinearForm(coeff, torch.zeros(1, 1, dtype=torch.float64)), choice)
            for point, image in zip(points, images, strict=True):
                below(pulled, point, sum(a * y for a, y in zip(exact(coeff), image, strict=True)))


@given(data=st.data())
def test_forms_that_meet(data):
    """``merge``, ``minimum`` and ``total`` never exceed what they bound."""
    n = 4
    center = torch.tensor([data.draw(numbers(n))], dtype=torch.float64)
    box = Interval(center, center.abs() * data.draw(st.sampled_from([0.0, 0.3, 2.0])))
    forms = [
        LinearForm(torch.tensor(data.draw(numbers(n))).double().reshape(1, 1, n), torch.tensor([[v]]).double())
        for v in data.draw(numbers(2))
    ]
    merged = REAL.merge(*forms, box)
    least = REAL.minimum(merged, box)
    separate = REAL.total([REAL.minimum(f, box) for f in forms])
    for point in corners(box, [list(s) for s in itertools.product((-1, 1), repeat=n)]):
        true = sum(
            sum(a * x for a, x in zip(exact(f.coeff), point, strict=True)) + Fraction(float(f.const)) for f in forms
        )
        below(merged, point, true)
        assert Fraction(float(least)) <= true
        assert Fraction(float(separate)) <= true


@given(data=st.data())
def test_modes_are_ordered_and_boxes_grow(data):
    """``float32 >= real >= the exact hull``; a box within a box has an image within its image, up to rounding."""
    op = nn.Linear(5, 3).double()
    with torch.no_grad():
        for p in op.parameters():
            p.copy_(torch.tensor(data.draw(numbers(p.numel(), -40, 40))).reshape(p.shape))
    center = torch.tensor([data.draw(numbers(5, -40, 40))], dtype=torch.float64)
    share = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    large = Interval(center, center.abs() * 0.25 + 1e-6)
    small = Interval(center, large.radius * share)
    none, real, deployed = (rule_for(op).interval(op, large, rounding=r).radius for r in (EXACT, REAL, FLOAT32))
    w, _ = matrix(op, (5,))
    hull = [sum(abs(Fraction(a)) * r for a, r in zip(row, exact(large.radius), strict=True)) for row in w.tolist()]
    assert all(Fraction(r) >= h for r, h in zip(real[0].tolist(), hull, strict=True))
    assert bool((deployed >= real).all())
    assert bool((real >= none).all())
    for rounding in (REAL, FLOAT32):
        inner, outer = (rule_for(op).interval(op, x, rounding=rounding) for x in (small, large))
        assert torch.equal(inner.center, outer.center)
        assert bool((inner.radius <= outer.radius).all())
