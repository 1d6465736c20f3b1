"""What sums may lose by their partial sums: every tree of a small float, exact reaches, and rows that lose nearly all of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core import ops, partial_sums
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.core.partial_sums import PartialSums
from pipeline.rules import rule_for
from pipeline.rules.affine import LinearRule
from tests.bounds.executor import Execution, F, executions, matrix
from tests.bounds.test_any_order import LAYERS

FLOAT32, U = Outward(deployed=True), 2.0**-24


def layer(name: str, rng: np.random.Generator) -> tuple[nn.Module, tuple[int, ...]]:
    """Of the layers that are evaluated in any order, with weights of its own, none of which is zero."""
    op, shape = copy.deepcopy(LAYERS[name])
    for p in op.double().requires_grad_(False).parameters():
        p.copy_(torch.from_numpy(rng.standard_normal(p.shape).astype(F)).double())
    return op, shape


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def rounded(value: float, digits: int) -> float:
    """To so many binary digits, ties to even."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(mantissa, digits)), exponent - digits)


def trees(terms: list[float], digits: int) -> Iterator[float]:
    """The sum by every binary tree, each addition rounded."""
    if len(terms) == 1:
        yield terms[0]
        return
    for mask in range(1, 2 ** (len(terms) - 1)):  # the last term is on the right
        left = [t for i, t in enumerate(terms) if mask >> i & 1]
        right = [t for i, t in enumerate(terms) if not mask >> i & 1]
        others = list(trees(right, digits))
        for a in trees(left, digits):
            yield from (rounded(a + b, digits) for b in others)


@pytest.mark.parametrize("short", [0, 1])
def test_no_tree_loses_more(monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    """Four terms and an offset of five binary digits, in all 105 trees; with one addition too few, some tree does."""
    digits, generator = 5, np.random.default_rng(0)
    monkeypatch.setattr(partial_sums, "U32", 2.0**-digits)
    monkeypatch.setattr(partial_sums, "SLACK", -1)  # the terms are exact
    used = 0.0
    drawn = generator.integers(-31, 32, (250, 5)) * 2.0 ** generator.integers(-1, 3, (250, 5))
    for *w, b in [[0.5, 0.5, 0.5, 0.5, 16.0], *drawn.tolist()]:  # the first may lose all but the last, half a unit each
        offset, image, spread = scalar(abs(b)), scalar(sum(w) + b), scalar(sum(map(abs, w)))
        most = sum(t != 0 for t in w) - short
        sums = PartialSums.of(image, spread, offset, most, 4)
        bound, exact = float(sums.lost(spread + offset, 4)), sum(w) + b
        lost = max(abs(y - exact) for y in trees([*w, b], digits))
        used = max(used, lost / bound if bound else math.inf)
    assert used > 1 if short else 0.7 < used <= 1


@pytest.mark.parametrize("seed", range(8))
def test_no_part_of_a_sum_reaches_further(seed: int) -> None:
    """Over a box, beside the exact sums of what is positive and of what is negative."""
    rng = np.random.default_rng(seed)
    w, b = rng.standard_normal(12) * 10.0 ** rng.integers(-3, 4, 12), float(rng.standard_normal())
    op = nn.Linear(12, 1).double()
    with torch.no_grad():
        op.weight.copy_(torch.from_numpy(w)[None])
        op.bias.fill_(b)
    center, radius = rng.standard_normal(12), rng.exponential(1.0, 12) * (rng.random(12) < 0.7)
    x = Interval(torch.from_numpy(center)[None], torch.from_numpy(radius)[None])
    with torch.no_grad():
        sums = rule_for(op).partial_sums(op, x)
    ends = [
        (Fraction(v) * (Fraction(c) - Fraction(r)), Fraction(v) * (Fraction(c) + Fraction(r)))
        for v, c, r in zip(w.tolist(), center.tolist(), radius.tolist(), strict=True)
    ]
    highest = sum((max(0, *e) for e in ends), max(Fraction(0), Fraction(b)))
    lowest = sum((min(0, *e) for e in ends), min(Fraction(0), Fraction(b)))
    exact = max(highest, -lowest)
    assert exact <= Fraction(float(sums.reach)) <= exact * (1 + Fraction(1, 10**9))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dead", [0.0, 0.6, 1.0])
def test_products_of_zero_are_not_counted(name: str, dead: float) -> None:
    rng = np.random.default_rng(3)
    op, shape = layer(name, rng)
    x = (rng.random((1, *shape)) + 0.5) * (rng.random((1, *shape)) >= dead)
    point = torch.from_numpy(x)
    used = (matrix(op, shape)[0] != 0) & (x.reshape(-1) != 0)
    rule = rule_for(op)
    made = op(point).shape
    assert (rule.active(op, Interval(point, 0 * point)).expand(made).flatten().numpy() == used.sum(1)).all()


@pytest.mark.parametrize("left", [False, True])
def test_products_of_zero_in_a_product_of_matrices_are_not_counted(left: bool) -> None:
    op, constant = ops.MatMul(), (torch.ones(4, 5) if left else torch.ones(6, 4)).double()
    x = torch.zeros(2, 5, 6)
    x[0, :3, :2] = 1
    box = Interval(x.double(), 0 * x.double())
    inputs = (constant, box) if left else (box, constant)
    count = rule_for(op).active(op, *inputs)
    assert count[1].max() == 0
    assert sorted(count[0].unique().tolist()) == [0, 3 if left else 2]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_lose_no_more_in_any_order(name: str) -> None:
    rng = np.random.default_rng(1)
    for dead in (0.0, 0.7):
        op, shape = layer(name, rng)
        w, b = matrix(op, shape)
        x = ((rng.random((1, *shape)) - 0.3) * (rng.random((1, *shape)) >= dead)).astype(F)
        point = torch.from_numpy(x).double()
        exact = op(point).flatten().numpy()
        allowed = rule_for(op).disturbance(op, Interval(point, 0 * point), rounding=FLOAT32).flatten().numpy()
        for how in executions(seed=2):
            assert (np.abs(how(w, b, x.reshape(-1)) - exact) <= allowed).all(), f"{how}"


def row(kind: str) -> tuple[nn.Linear, np.ndarray]:
    """1000 weights of which one execution loses nearly every one, and inputs, of which some are zero."""
    op = nn.Linear(1000, 1, bias=kind == "offset").double().requires_grad_(False)
    w, x = np.full(1000, 0.99 * U), np.ones(1000)
    x[500:900] = 0
    if kind == "cancelling":  # one large term comes first, and its negative last
        w[0], w[-1] = 1, -1
    op.weight.copy_(torch.from_numpy(w.astype(F)).double()[None])
    if kind == "offset":
        op.bias.fill_(1.0)
    return op, x.astype(F)


def share(kind: str) -> float:
    """Of what a row may lose, what it does lose."""
    op, x = row(kind)
    point = torch.from_numpy(x).double()[None]
    allowed = float(rule_for(op).disturbance(op, Interval(point, 0 * point), rounding=FLOAT32))
    w, b = matrix(op, (1000,))
    lost = float(op(point)) - float(Execution("given")(w.astype(F), b.astype(F), x)[0])
    return lost / allowed


WRONG = {
    "half of the products": ("lost", lambda of: lambda s, *a: of(PartialSums(s.most / 2, s.reach), *a)),
    "what cancels": ("of", lambda of: lambda image, spread, *a: of(image, 0 * spread, *a)),
    "no offset": ("of", lambda of: lambda image, spread, offset, *a: of(image - offset, spread, 0 * offset, *a)),
}


def test_rows_lose_nearly_all_that_they_may_and_never_more() -> None:
    for kind in ("offset", "cancelling"):
        assert 0.9 < share(kind) <= 1, kind


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rule_is_exceeded(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    name, change = WRONG[wrong]
    changed = change(getattr(PartialSums, name))
    monkeypatch.setattr(PartialSums, name, staticmethod(changed) if name == "of" else changed)
    assert max(share("offset"), share("cancelling")) > 1


def test_inputs_that_are_not_counted_are_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearRule, "active", lambda self, op, x: (x.magnitude > 1).sum(-1, keepdim=True))
    assert share("offset") > 1
