"""Elementwise operators against dense samples: lines touch the function, are the best in the middle, and never lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT
from pipeline.errors import InputRejected
from pipeline.rules import rule_for, rules
from pipeline.rules.curves import MIRRORED
from pipeline.rules.elementwise import Elementwise
from pipeline.rules.functions import StepRule
from pipeline.rules.trigonometric import WaveRule
from tests import laws

STEPS = (ops.Sign(), ops.Floor(), ops.Ceil(), ops.Round())
EXAMPLES = {
    f"{type(example.op).__name__}-{i}": example
    for rule in dict.fromkeys(rules().values())
    if isinstance(rule, Elementwise) and not isinstance(rule, StepRule)
    for i, example in enumerate(rule.examples())
}
MODES = {
    "none": EXACT,
    "real": Outward(deployed=False),
    "float32": Outward(deployed=True, kernels=laws.Measured()),
}
WIDE, TINY, HUGE = (2.0, 0.3), (1e-4, 1e-8, 1e-12, 0.0), (40.0, 1e6)


def prepared(name: str, radii: tuple[float, ...], each: int = 6):
    """An operator, its constants and boxes of each size: (sizes * each, 8, 1), so that a slope a channel finds its own."""
    example = EXAMPLES[name]
    op = laws.randomise(example.op, seed=1).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    shape = (len(radii) * each, 8, 1)
    center, share = (draw(shape, generator=generator, dtype=torch.float64) for draw in (torch.randn, torch.rand))
    radius = share * torch.tensor(radii, dtype=torch.float64).repeat_interleave(each).reshape(-1, 1, 1)
    x = laws.within(example.domain, Interval(center * 2, radius))
    return op, x, [c.double() for c in example.inputs[1:]]


def grid(op: nn.Module, x: Interval, constants: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Points of each box, its ends and the kinks of the function among them, and their values: (points, *box)."""
    weights = torch.linspace(-1, 1, count, dtype=torch.float64).reshape(-1, *[1] * x.center.dim())
    # A wave's knots move with the box.
    rule = rule_for(op)
    knots = () if isinstance(rule, WaveRule) else rule.curve(op, *constants).knots
    kinks = [torch.full_like(x.center, k).clamp(x.center - x.radius, x.center + x.radius) for k in knots]
    points = torch.cat([laws.inside(x, weights), *(k[None] for k in kinks)])
    return points, torch.stack([op(p, *constants) for p in points])


def forms(relaxation, x, alpha: float | str | None = None):
    """The lines below ``f`` and ``-f``, slope and offset in each entry, read off by pulling back ``y`` and ``-y``."""
    size = x.center[0].numel()
    unit = torch.eye(size, dtype=torch.float64).reshape(size, 1, *x.center.shape[1:]).expand(-1, *x.center.shape)
    coeff = torch.cat([unit, -unit])
    choice = None
    if alpha is not None and relaxation.start is not None:
        choice = relaxation.start if alpha == "start" else torch.full_like(relaxation.start, alpha)
        choice = choice[:, None].expand(-1, 2 * size, *x.center.shape)
    pulled = relaxation.pull_back(LinearForm(coeff, torch.zeros(coeff.shape[:2], dtype=torch.float64)), choice)[0]
    slope, offset = pulled.coeff.flatten(2).sum(2), pulled.const
    return [
        tuple(v[rows].T.reshape(x.center.shape) for v in (slope, offset)) for rows in (slice(size), slice(size, None))
    ]


def gaps(relaxation, x, alpha, points, values):
    """``f - below`` and ``above - f`` at every point: twice (points, *box)."""
    below, above = forms(relaxation, x, alpha)
    return [sign * values - slope * points - offset for sign, (slope, offset) in ((1, below), (-1, above))]


@pytest.mark.parametrize("name", EXAMPLES)
def test_lines_enclose_boxes_of_every_size(name):
    example = EXAMPLES[name]
    op, x, constants = prepared(name, WIDE + TINY + (() if example.domain else HUGE))
    points, values = grid(op, x, constants, 41)
    for mode, rounding in MODES.items():
        box = rule_for(op).interval(op, x, *constants, rounding=rounding)
        assert laws.violation(box, values) <= 0 or mode == "none" or isinstance(op, ops.Exp)
        relaxation = rule_for(op).relax(op, x, *constants, rounding=rounding)
        for alpha in (None, 0.0, 0.3, 1.0):
            for gap in gaps(relaxation, x, alpha, points, values):
                # Samples round too: in "none" lines do as well, and a box of 1e6 leaves few digits.
                slack = 1e-14 * (1 + values.abs() + points.abs()).amax(0) * (10 if mode == "none" else 1)
                assert bool((gap >= -slack)[gap.isfinite()].all())
                assert bool((gap.isfinite() | (values.abs() > 1e30).any(0)).all())


def zoomed(op, x, constants, sign, slope) -> Tensor:
    """``min of ±f - slope x`` over each box, by samples ever closer to the least of them."""
    low, high = x.center - x.radius, x.center + x.radius
    least = torch.full_like(low, torch.inf)
    for _ in range(5):
        here = Interval((low + high) / 2, (high - low) / 2)
        points, values = grid(op, here, constants, 65)
        height = sign * values - slope * points
        best = points.gather(0, height.argmin(0, keepdim=True))[0]
        least = torch.minimum(least, height.amin(0))
        low, high = (torch.clamp(best + step * here.radius / 30, low, high) for step in (-1, 1))
    return least


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_line_that_can_be_chosen_touches(name):
    """A lazy line, constant or too low, fails here; between the five lines of a choice their means need not touch."""
    op, x, constants = prepared(name, WIDE)
    relaxation = rule_for(op).relax(op, x, *constants)
    for alpha in (None, 0.0, 0.75):
        for sign, (slope, offset) in zip((1, -1), forms(relaxation, x, alpha), strict=True):
            least = zoomed(op, x, constants, sign, slope)
            assert bool((offset >= least - 1e-6 * (1 + least.abs())).all())
            assert bool((offset <= least + 1e-9 * (1 + least.abs())).all())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_default_is_the_best_line_in_the_middle_and_the_search_starts_there(name):
    op, x, constants = prepared(name, (*WIDE, 1e-3))
    if isinstance(rule_for(op), WaveRule):
        x = x[(x.radius < 3).flatten(1).all(1)]
    points, values = grid(op, x, constants, 65)
    middle = x.center
    relaxation = rule_for(op).relax(op, x, *constants)
    for sign, chosen, (slope, offset) in zip((1, -1), forms(relaxation, x, "start"), forms(relaxation, x), strict=True):
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(chosen, (slope, offset), strict=True))
        # No line below all samples is higher in the middle than the lowest chord over it.
        left, right = points <= middle, points >= middle
        a, b, fa, fb = points[:, None], points[None], sign * values[:, None], sign * values[None]
        share = (middle - a) / (b - a).clamp(min=1e-300)
        chord = torch.where(left[:, None] & right[None] & (b > a), fa + share * (fb - fa), torch.inf)
        best = torch.minimum(chord.amin((0, 1)), sign * op(middle, *constants))
        size = (values.amax(0) - values.amin(0)).clamp(min=1e-9)
        assert bool((slope * middle + offset >= best - 2e-3 * size).all())


@pytest.mark.parametrize("name", [n for n in EXAMPLES if not n.startswith(("LeakyReLU", "PReLU", "Sin", "Cos"))])
def test_the_wrong_kind_of_a_piece_fails(name):
    """The harness can fail: what is convex taken for concave gives a line that the samples cross."""
    op, x, constants = prepared(name, WIDE)
    curve = rule_for(op).curve(op, *constants)
    if set(curve.kinds) == {"linear"}:
        pytest.skip("straight pieces have no other kind")
    ends = EXACT.ends(x)
    crossed = []
    for right, sign in ((curve, 1), (-curve, -1)):
        wrong = replace(right, kinds=tuple(MIRRORED[k] for k in right.kinds))
        slope = right.support(x.center, *ends)
        crossed.append(bool((wrong.least(slope, *ends) > zoomed(op, x, constants, sign, slope) + 1e-6).any()))
    assert any(crossed)


def test_a_box_within_one_straight_piece_is_exact_and_gains_nothing():
    for op in (nn.LeakyReLU(0.3), nn.LeakyReLU(-0.5), ops.Abs(), ops.Clip(-1.0, 6.0), nn.Hardsigmoid(), nn.Hardswish()):
        rule = rule_for(op)
        for center, radius, straight in ((-9.0, 5.0, True), (-0.5, 0.0, None), (9.0, 3.0, True), (2.0, 6.0, False)):
            x = Interval(torch.full((1, 8, 1), center).double(), torch.full((1, 8, 1), radius).double())
            below, above = forms(rule.relax(op, x), x)
            if straight is not False:
                assert all(
                    torch.allclose(s * center + b, sign * op(x.center)) for sign, (s, b) in ((1, below), (-1, above))
                )
            if straight:
                assert all(torch.allclose(a, -b, atol=1e-12) for a, b in zip(below, above, strict=True))
            assert straight is None or bool((rule.loose(op, x) != straight).all())


@pytest.mark.parametrize("op", [*STEPS, *(e.op for e in EXAMPLES.values() if len(e.inputs) == 1)], ids=repr)
def test_what_is_not_finite_is_never_decided(op):
    op = laws.randomise(op, seed=1)
    rule = rule_for(op)
    for radius in (torch.nan, torch.inf):
        x = Interval(
            torch.ones(2, 8, 1).double(), torch.tensor([radius, 0.1]).double().reshape(2, 1, 1).expand(2, 8, 1)
        )
        for mode in MODES.values():
            box = rule.interval(op, x, rounding=mode)
            assert bool(box.radius[0].isnan().all())
            assert bool(box.radius[1].isfinite().all())
            relaxation = rule.relax(op, x, rounding=mode)
            if relaxation is not None:
                ones = LinearForm(torch.ones(1, 2, 8, 1).double(), torch.zeros(1, 2).double())
                const = relaxation.pull_back(ones)[0].const[0]
                assert bool(const[0].isnan())
                assert bool(const[1].isfinite())


@pytest.mark.parametrize(
    ("op", "constants", "low"),
    [
        (ops.Log(), [], 0.0),
        (ops.Sqrt(), [], -1e-9),
        (ops.Reciprocal(), [], 0.0),
        (ops.Pow(), [torch.tensor(-1.0)], -0.5),
        (ops.Pow(), [torch.tensor(0.5)], -0.5),
        (ops.Pow(), [torch.tensor(-1.5)], 0.0),
    ],
)
def test_a_box_that_leaves_the_domain_is_nan_there_alone(op, constants, low):
    ends = torch.tensor([[low, 1.0], [1.0, 2.0]]).double()
    x = Interval(ends.mean(1)[:, None], ((ends[:, 1] - ends[:, 0]) / 2)[:, None])
    for mode in MODES.values():
        radius = rule_for(op).interval(op, x, *constants, rounding=mode).radius[:, 0]
        assert bool(radius[0].isnan())
        assert bool(radius[1].isfinite())


def test_a_root_may_begin_at_zero():
    x = Interval(torch.full((1, 8, 1), 0.3).double(), torch.full((1, 8, 1), 0.3).double())
    for mode in MODES.values():
        box = rule_for(ops.Sqrt()).interval(ops.Sqrt(), x, rounding=mode)
        assert float(box.upper.max()) < 0.6**0.5 + 1e-6
        points, values = grid(ops.Sqrt(), x, [], 201)
        relaxation = rule_for(ops.Sqrt()).relax(ops.Sqrt(), x, rounding=mode)
        for alpha in (None, 0.0, 0.1, 1.0):
            for gap in gaps(relaxation, x, alpha, points, values):
                assert bool((gap >= -1e-12).all())


def test_one_power_for_all_entries():
    x = Interval(torch.ones(1, 2).double(), torch.zeros(1, 2).double())
    with pytest.raises(InputRejected, match="one exponent"):
        rule_for(ops.Pow()).interval(ops.Pow(), x, torch.tensor([2.0, 3.0]))
    assert rule_for(ops.Pow()).refuses(ops.Pow(), (True, True))


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (x * torch.tensor(1 / 6) + 0.5).clamp(0, 1)


IN_FLOAT32: list[tuple[nn.Module, list[Tensor], Callable[[Tensor], Tensor]]] = [
    (nn.LeakyReLU(0.375), [], nn.LeakyReLU(0.375)),
    (ops.Abs(), [], torch.abs),
    (nn.Hardsigmoid(), [], _hard_sigmoid),
    (nn.Hardswish(), [], lambda x: x * _hard_sigmoid(x)),
    (ops.Reciprocal(), [], lambda x: 1 / x),
    (ops.Sqrt(), [], torch.sqrt),
    (ops.Pow(), [torch.tensor(2.0).double()], lambda x: x * x),
    (ops.Pow(), [torch.tensor(3.0).double()], lambda x: x * x * x),
]


@pytest.mark.parametrize(
    ("op", "constants", "deployed"),
    IN_FLOAT32,
    ids=lambda v: "" if callable(v) and not isinstance(v, nn.Module) else repr(v)[:30],
)
def test_float32_evaluations_lie_within_boxes_and_lines_of_radius_zero(op, constants, deployed):
    """Without a measured kernel: what these charge follows from IEEE 754. Subnormal operands read as zero among them."""
    x = torch.linspace(0.01, 8, 1024) * torch.tensor([1.0, -1.0]).repeat(512)
    x = x.abs() if isinstance(op, ops.Sqrt) else x
    tiny = x[:8] * 2.0**-130
    for at, operand in ((x, x), (tiny, torch.zeros_like(tiny))):
        if isinstance(op, ops.Reciprocal) and at is tiny:
            continue
        box = Interval(at.double().reshape(-1, 8, 1), torch.zeros(len(at) // 8, 8, 1).double())
        y = deployed(operand).double().reshape(box.center.shape)
        mode = Outward(deployed=True)
        assert laws.violation(rule_for(op).interval(op, box, *constants, rounding=mode), y) <= 0
        for gap in gaps(rule_for(op).relax(op, box, *constants, rounding=mode), box, None, box.center[None], y[None]):
            assert bool((gap >= 0).all())


def test_a_value_that_overflows_float32_is_never_decided():
    mode = Outward(deployed=True, kernels=laws.Measured())
    for op, at in ((ops.Exp(), 88.0), (ops.Reciprocal(), 2.0**-126)):
        x = Interval(torch.full((1, 1), at).double(), torch.zeros(1, 1).double())
        assert not bool(rule_for(op).interval(op, x, rounding=mode).radius.isfinite().any())
        form = LinearForm(torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double())
        assert not bool(rule_for(op).relax(op, x, rounding=mode).pull_back(form)[0].const.isfinite().any())


@pytest.mark.parametrize("op", [nn.GELU(), ops.Abs(), nn.Sigmoid(), nn.Hardswish(), nn.PReLU(8)], ids=repr)
def test_boxes_and_chosen_lines_have_gradients(op):
    op = laws.randomise(op, seed=1)
    generator = torch.Generator().manual_seed(3)
    center, radius = (torch.rand(3, 8, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    rule = rule_for(op)

    def ends(center: Tensor, radius: Tensor) -> Tensor:
        box = rule.interval(op, Interval(center - 0.8, radius))
        return torch.stack([box.center, box.radius])

    assert torch.autograd.gradcheck(ends, (center, radius))
    relaxation = rule.relax(op, Interval(center.detach() - 0.8, radius.detach()))
    form = LinearForm(torch.randn(5, 3, 8, generator=generator, dtype=torch.float64), torch.zeros(5, 3).double())
    alpha = relaxation.start[:, None].repeat(1, 5, 1, 1).requires_grad_()
    pulled = relaxation.pull_back(form, alpha)[0]
    (gradient,) = torch.autograd.grad(pulled.const.sum() + pulled.coeff.sum(), alpha)
    assert bool(gradient.isfinite().all())
    assert bool((gradient.abs().amax((0, 1)) > 0)[rule.loose(op, Interval(center - 0.8, radius))].any())


@pytest.mark.parametrize("op", STEPS, ids=repr)
def test_a_step_is_loose_only_where_it_may_step(op):
    x = Interval(torch.tensor([[0.3, 0.3, 1.5, 0.0]]).double(), torch.tensor([[0.1, 1.5, 0.2, 0.0]]).double())
    loose = rule_for(op).loose(op, x)
    assert rule_for(op).relax(op, x) is None
    assert loose.tolist()[0][:2] == [False, True]


@pytest.mark.parametrize("alpha", [None, "start", 0.0, 0.4, 1.0])
def test_a_leaky_relu_without_a_leak_is_a_relu(alpha):
    _, x, _ = prepared("LeakyReLU-0", (*WIDE, *TINY))
    leaky, relu = (forms(rule_for(op).relax(op, x), x, alpha) for op in (nn.LeakyReLU(0.0), nn.ReLU()))
    for a, b in zip(leaky, relu, strict=True):
        assert all(torch.allclose(v, w, rtol=1e-9, atol=1e-12) for v, w in zip(a, b, strict=True))
