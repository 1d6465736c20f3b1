"""Every enrolled operator keeps the laws; a deliberately wrong rule does not."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core.interval import Interval, Lockstep
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT
from pipeline.rules import Affine, rule_for, rules
from tests import laws

EXAMPLES = {
    f"{type(example.op).__name__}-{i}": example
    for rule in dict.fromkeys(rules().values())
    for i, example in enumerate(rule.examples())
}
REAL = Outward(deployed=False)
FLOAT32 = Outward(deployed=True, kernels=laws.Measured())
MODES = {"none": EXACT, "real": REAL, "float32": FLOAT32}
TOLERANCE = 1e-11  # of mode "none", which rounds nothing outward


@cache
def drawn(name, kind):
    """An operator, boxes of its inputs, points in them and their values: once for all laws."""
    example = EXAMPLES[name]
    op = laws.randomise(copy.deepcopy(example.op), seed=1)
    inputs = laws.boxes(example, kind, seed=2)
    points = list(laws.points(op, inputs, seed=3, draws=9))
    with torch.no_grad():
        return op, inputs, points, [op(*p) for p in points]


def test_every_rule_enrols_examples_of_its_own_operators():
    covered = {type(example.op) for example in EXAMPLES.values()}
    missing = {op.__name__ for op in rules()} - {op.__name__ for op in covered}
    assert missing == set(), missing


@pytest.mark.parametrize("kind", laws.KINDS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_box_contains_image(name, kind):
    op, inputs, points, values = drawn(name, kind)
    rule = rule_for(op)
    boxes = {mode: rule.interval(op, *inputs, rounding=rounding) for mode, rounding in MODES.items()}
    for point, y in zip(points, values, strict=True):
        assert laws.violation(boxes["none"], y) <= TOLERANCE * (1 + float(y.abs().max()))
        # The float64 evaluation of the point itself rounds: by less than it would for a box of radius zero there.
        own = rule.interval(op, *(_at(x, p) for x, p in zip(inputs, point, strict=True)), rounding=REAL).radius
        for mode in ("real", "float32"):
            assert bool(((y - boxes[mode].center).abs() <= boxes[mode].radius + own).all())
    assert bool((boxes["float32"].lower <= boxes["real"].lower).all())
    assert bool((boxes["float32"].upper >= boxes["real"].upper).all())


@pytest.mark.parametrize("name", EXAMPLES)
def test_radius_zero_encloses_the_value_and_collapses_without_rounding(name):
    op, inputs, *_ = drawn(name, "point")
    y = op(*(x.center if isinstance(x, Interval) else x for x in inputs))
    plain = rule_for(op).interval(op, *inputs, rounding=EXACT)
    assert torch.allclose(plain.center, y, rtol=1e-12, atol=1e-12)
    assert float(plain.radius.abs().max()) <= 1e-12
    sound = rule_for(op).interval(op, *inputs, rounding=REAL)
    assert laws.violation(sound, y) <= 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_affine_bounds_are_attained(name):
    """Each end of each output is reached at the corner that its own row of weights names."""
    op, inputs, *_ = drawn(name, "wide")
    if not isinstance(rule_for(op), Affine):
        pytest.skip("not affine")
    bounds = rule_for(op).interval(op, *inputs)
    leaves = [x.center.clone().requires_grad_() if isinstance(x, Interval) else x for x in inputs]
    y = op(*leaves)
    for flat in torch.linspace(0, y.numel() - 1, 7).long().unique().tolist():
        grads = torch.autograd.grad(
            y.flatten()[flat], [v for v in leaves if v.requires_grad], retain_graph=True, allow_unused=True
        )
        corner, it = [], iter(grads)
        for x in inputs:
            g = next(it) if isinstance(x, Interval) else None
            corner.append(
                x if not isinstance(x, Interval) else x.center if g is None else x.center + g.sign() * x.radius
            )
        reached = op(*corner).flatten()[flat]
        assert torch.isclose(reached, (bounds.center + bounds.radius).flatten()[flat], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", laws.KINDS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_pulled_back_form_is_below_at_every_point(name, kind):
    op, inputs, points, values = drawn(name, kind)
    rule, shape = rule_for(op), values[0].shape
    generator = torch.Generator().manual_seed(12)
    coeff = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    form = LinearForm(coeff, torch.zeros(5, shape[0], dtype=torch.float64))
    for mode in MODES.values():
        relaxation = rule.relax(op, *inputs, rounding=mode)
        if relaxation is None:
            pytest.skip("no linear relaxation: the walk stops at its box")
        for alpha in choices(relaxation, generator):
            pulled = relaxation.pull_back(form, alpha)
            for point, value in zip(points, values, strict=True):
                y = _dot(coeff, value)
                below = sum(p.const + _dot(p.coeff, v) for p, v in zip(pulled, point, strict=True) if p is not None)
                slack = 1e-10 * (1 + y.abs())  # the points' own float64 evaluation
                assert bool((below <= y + slack).all())
                if mode is EXACT and isinstance(rule, Affine):
                    assert torch.allclose(below, y, rtol=1e-9, atol=1e-9)


def choices(relaxation, generator):
    """No choice, and where there is one: both ends and slopes at random, another for each row."""
    yield None
    if relaxation.start is not None:
        many = relaxation.start[:, None].expand(-1, 5, *relaxation.start.shape[1:])
        yield torch.zeros_like(many)
        yield torch.ones_like(many)
        yield torch.rand(many.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_batch_equals_its_samples_one_by_one(name):
    op, inputs, *_ = drawn(name, "wide")
    batch = next(x for x in inputs if isinstance(x, Interval)).center.shape[0]
    if any(not isinstance(x, Interval) and x.dim() and x.shape[0] == batch for x in inputs):
        pytest.skip("a constant carries the batch")
    whole = rule_for(op).interval(op, *inputs)
    for i in range(batch):
        alone = rule_for(op).interval(
            op, *(Interval(x.center[i : i + 1], x.radius[i : i + 1]) if isinstance(x, Interval) else x for x in inputs)
        )
        assert torch.allclose(alone.center[0], whole.center[i], rtol=1e-12, atol=1e-12)
        assert torch.allclose(alone.radius[0], whole.radius[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EXAMPLES)
def test_training_walk_in_eval_mode_is_the_interval_walk(name):
    op, inputs, *_ = drawn(name, "wide")
    box = rule_for(op).interval(op, *inputs)
    step = rule_for(op).lockstep(
        op, *(Lockstep(x.center, x.center, x.radius) if isinstance(x, Interval) else x for x in inputs)
    )
    assert torch.allclose(step.center, box.center, rtol=1e-10, atol=1e-10)
    assert torch.allclose(step.radius, box.radius, rtol=1e-10, atol=1e-10)


def test_a_wrong_rule_fails_the_law():
    """The harness can fail: |W| left out, and the bound rule of Sub with radii subtracted."""

    class Wrong(type(rule_for(nn.Linear(1, 1)))):
        def radius(self, op, *xs):
            return F.linear(xs[0].radius, op.weight)

    op = laws.randomise(nn.Linear(12, 9), seed=1)
    inputs = [laws.box((4, 12), "wide", torch.Generator().manual_seed(2))]
    bounds = Wrong().interval(op, *inputs)
    assert any(laws.violation(bounds, op(*p)) > TOLERANCE for p in laws.points(op, inputs, seed=3))


def test_nan_never_becomes_a_bound():
    for name in EXAMPLES:
        op, inputs, *_ = drawn(name, "wide")
        poisoned = [
            Interval(x.center, torch.full_like(x.radius, torch.nan)) if isinstance(x, Interval) else x for x in inputs
        ]
        result = rule_for(op).interval(op, *poisoned, rounding=REAL)
        # A constant joined or padded in stays a constant; every entry that depends on the input is NaN.
        depends = rule_for(op).interval(op, *inputs).radius > 0
        assert bool(result.radius.isnan()[depends].all()), type(op).__name__


def _dot(coeff, value):
    return (coeff * value).sum(tuple(range(2, coeff.dim()))) if coeff.dim() > 2 else coeff * value


def _at(x, point):
    return Interval(point, torch.zeros_like(point)) if isinstance(x, Interval) else x
