"""Whole graphs keep the laws, the falsifier switched off: every node's box, and every margin, at many points."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from pipeline.bounds import walk
from pipeline.bounds.alpha import Search
from pipeline.bounds.ibp import IntervalWalk
from pipeline.bounds.linear import LinearWalk
from pipeline.bounds.margins import MarginBounds, head, margins
from pipeline.bounds.tighten import met
from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Network
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT
from pipeline.core.threat import Box, EuclideanBall, LinfBall
from pipeline.methods import METHODS
from tests import laws, nets

REAL = Outward(deployed=False)
FLOAT32 = Outward(deployed=True)


def tail_net(seed: int = 0) -> Network:
    """A long affine tail: ReLU, conv, residual add, pooling, BatchNorm, two Linear layers."""
    d = nets.Drawing(seed)
    x = d(nn.ReLU(), d(nn.Conv2d(2, 8, 3, padding=1), d.input(2, 6, 6)))
    x = d(ops.Add(), d(nn.Conv2d(8, 8, 3, padding=1), x), x)
    x = d(nn.BatchNorm2d(8), d(nn.AvgPool2d(3, stride=2, padding=1), x))
    x = d(nn.Linear(8, 9), d(nn.Flatten(), d(ops.ReduceMean((2, 3), keepdim=True), x)))
    return d.finish(d(nn.Linear(9, 5), x), shapes=((None, 5),))


def pooled_net(seed: int = 0) -> Network:
    """No affine tail: the last operator is a maximum; LeakyReLU, Clip and a max pool on the way."""
    d = nets.Drawing(seed)
    x = d(nn.LeakyReLU(0.1), d(nn.Conv2d(2, 8, 3, padding=1), d.input(2, 6, 6)))
    x = d(nn.MaxPool2d(3, stride=2, padding=1), x)
    x = d(ops.Clip(-1.0, 2.0), d(nn.Conv2d(8, 5, 3, padding=1), x))
    return d.finish(d(ops.ReduceMax((2, 3), keepdim=False), x), shapes=((None, 5),))


NETS = {
    "mlp": nets.mlp,
    "mlp-bn": lambda seed: nets.mlp(bn=True, seed=seed),
    "conv": lambda seed: nets.conv_net(seed=seed, bn=True),
    "residual-concat": lambda seed: nets.residual_concat_net(seed=seed),
    "affine-tail": tail_net,
    "no-tail": pooled_net,
}


def region(network: Network, eps: str, seed: int, batch: int = 3, device: str = "cpu") -> tuple[torch.Tensor, Interval]:
    shape = [d for d in network.inputs[0].shape if d is not None]
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)
    return x, LinfBall(Fraction(eps)).box(x)


@pytest.mark.parametrize("eps", ["0", "1/1000000", "8/255", "0.3"])
@pytest.mark.parametrize("name", NETS)
def test_every_node_and_every_margin_is_bounded(name, eps):
    network = NETS[name](seed=1).in_float64()
    _, box = region(network, eps, seed=2)
    labels = torch.tensor([0, 1, 2])
    for rounding, slack in ((EXACT, 1e-10), (REAL, 0.0), (FLOAT32, 0.0)):
        bounds = IntervalWalk(network, rounding)
        boxes = bounds.boxes([box], keep=walk.EVERYTHING)
        top = head(bounds.plan)
        lower = MarginBounds(network, rounding).rows(Box(box), labels)
        if rounding is EXACT:
            assert torch.allclose(margins(top, boxes, labels), lower, rtol=1e-12, atol=1e-12)
        for (point,) in laws.points(network, [box], seed=3):
            values = walk.forward(bounds.plan, [point], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
            # The points' own float64 evaluation errs by at most what a box of radius zero around them is charged.
            own = IntervalWalk(network, REAL).boxes([Interval(point, torch.zeros_like(point))], keep=walk.EVERYTHING)
            for box_here, value, error in zip(boxes, values, own, strict=True):
                if isinstance(box_here, Interval):
                    excess = (value - box_here.center).abs() - box_here.radius - error.radius
                    assert float(excess.max()) <= slack * (1 + float(value.abs().max()))
            logits = values[top.index].flatten(1)
            others = torch.stack([torch.cat([z[:y], z[y + 1 :]]) for z, y in zip(logits, labels, strict=True)], 1)
            true = logits[torch.arange(3), labels] - others
            allowance = 2 * float(own[top.index].radius.max()) + slack * (1 + float(logits.abs().max()))
            assert bool((lower <= true + allowance).all())


@pytest.mark.pairwise
@pytest.mark.parametrize("eps", ["0", "1/255", "8/255", "0.3"])
@pytest.mark.parametrize("rounding", [EXACT, REAL, FLOAT32], ids=["none", "real", "float32"])
@pytest.mark.parametrize("name", NETS)
def test_every_method_is_below_every_point_and_no_looser_than_the_one_before(name, rounding, eps, device):
    network = NETS[name](seed=21).in_float64().to(device)
    labels = torch.tensor([0, 1, 2], device=device)
    _, box = region(network, eps, seed=22, device=device)
    last = None
    for method in METHODS:
        rows = MarginBounds(network, rounding, method=method).rows(Box(box), labels)
        assert last is None or bool((rows >= last - 1e-12 * (1 + last.abs())).all())
        last = rows
    for (point,) in laws.points(network, [box], seed=23):
        logits = network(point).flatten(1)
        others = torch.stack([torch.cat([z[:y], z[y + 1 :]]) for z, y in zip(logits, labels, strict=True)], 1)
        true = logits[torch.arange(3), labels] - others
        assert bool((last <= true + 1e-12 * (1 + float(logits.abs().max()))).all())


@pytest.mark.parametrize("rounding", [EXACT, FLOAT32], ids=["none", "float32"])
@pytest.mark.parametrize("name", NETS)
def test_tightened_boxes_hold_every_node_at_points_pushed_against_them(name, rounding):
    """Intermediate bounds themselves are attacked: each point climbs the gradient of one node's entries."""
    network = NETS[name](seed=24).in_float64()
    _, box = region(network, "8/255", seed=25)
    plan = head(network.plan()).plan
    known = LinearWalk(network, rounding, plan, tighten=True).over([Box(box)])
    looser = LinearWalk(network, rounding, plan).over([Box(box)])
    generator = torch.Generator().manual_seed(26)
    for step in plan.steps:
        mine = known.box(step.index)
        assert bool((mine.radius <= looser.box(step.index).radius * (1 + 1e-12) + 1e-300).all())
        for sign in (1.0, -1.0):
            point = box.center.clone().requires_grad_()
            value = _at(plan, point, step.index)
            pick = torch.randint(value[0].numel(), (len(value),), generator=generator)
            (g,) = torch.autograd.grad(value.flatten(1).gather(1, pick[:, None]).sum(), point)
            with torch.no_grad():
                value = _at(plan, box.center + sign * g.sign() * box.radius, step.index)
            slack = 1e-12 * (1 + float(value.abs().max()))
            assert bool(((value - mine.center).abs() <= mine.radius + slack).all())


def _at(plan, point, index):
    return walk.forward(plan, [point], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)[index]


def test_there_is_nothing_to_search_for_where_a_walk_stops_before_the_first_slope():
    """Found by fuzzing: behind a step function no row reads the ReLU whose slopes are open."""
    d = nets.Drawing(33)
    x = d(ops.Floor(), d(nn.Linear(9, 5), d(nn.ReLU(), d(nn.Linear(12, 9), d.input(12)))))
    network = d.finish(x, shapes=((None, 5),)).in_float64()
    _, box = region(network, "0.1", seed=34)
    labels = torch.tensor([0, 1, 2])
    crown, alpha = (MarginBounds(network, REAL, method=m).least(box, labels) for m in ("crown", "alpha-crown"))
    assert torch.equal(crown, alpha)


def test_windows_of_a_difference_of_convolutions_keep_its_sign():
    d = nets.Drawing(35)
    x = d.input(2, 12, 12)
    x = d(nn.ReLU(), d(ops.Sub(), d(nn.Conv2d(2, 4, 3, padding=1), x), d(nn.Conv2d(2, 4, 3, padding=1), x)))
    x = d(nn.Flatten(), d(nn.ReLU(), d(nn.Conv2d(4, 3, 3, stride=2), x)))
    network = d.finish(d(nn.Linear(75, 5), x), shapes=((None, 5),)).in_float64()
    _, box = region(network, "8/255", seed=36)
    known = LinearWalk(network, REAL, tighten=True).over([Box(box)])
    for (point,) in laws.points(network, [box], seed=37):
        values = walk.forward(known.plan, [point], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
        for step in known.plan.steps:
            assert laws.violation(known.box(step.index), values[step.index]) <= 1e-9


def test_bounds_that_cross_prove_a_fault_and_certify_nothing():
    here = Interval(torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64))
    lower, upper = (torch.tensor([v], dtype=torch.float64) for v in ([-0.5, 0.2, 2.0], [0.5, 0.1, 3.0]))
    assert met(REAL, here, lower, upper).radius.isnan().tolist() == [[False, True, True]]


def test_memory_changes_no_bound():
    network = nets.residual_concat_net(seed=27).in_float64()
    _, box = region(network, "8/255", seed=28, batch=1)
    labels = torch.tensor([0])
    for method in ("crown", "alpha-crown"):
        plenty, scarce = (
            MarginBounds(network, FLOAT32, method=method, memory=m, search=Search(steps=1)).least(box, labels)
            for m in (1 << 30, 1 << 10)
        )
        assert torch.allclose(plenty, scarce, rtol=0, atol=1e-9)


def test_crown_over_a_euclidean_ball_holds_its_points_and_beats_the_box():
    network = nets.conv_net(seed=29).in_float64()
    x, _ = region(network, "0", seed=30)
    radius = 0.3
    ball = EuclideanBall(x, radius, LinfBall(Fraction("0.3")).box(x))
    labels = torch.tensor([0, 1, 2])
    rows = MarginBounds(network, FLOAT32, method="crown").rows(ball, labels)
    assert bool((rows > MarginBounds(network, FLOAT32, method="crown").rows(Box(ball.box), labels)).any())
    generator = torch.Generator().manual_seed(31)
    for _ in range(50):
        step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        point = (x + step * (radius / step.flatten(1).norm(dim=1))[:, None, None, None]).clamp(0, 1)
        logits = network(point)
        others = torch.stack([torch.cat([z[:y], z[y + 1 :]]) for z, y in zip(logits, labels, strict=True)], 1)
        assert bool((rows <= logits[torch.arange(3), labels] - others + 1e-9).all())


def test_a_wrong_slope_fails_the_law():
    """The harness can fail: a chord drawn too low is noticed."""
    from pipeline.rules import rule_for
    from pipeline.rules.relax import Line

    op, x = nn.ReLU(), laws.box((4, 9), "wide", torch.Generator().manual_seed(1))
    relaxation = rule_for(op).relax(op, x)
    relaxation.above = Line(relaxation.above.slope, relaxation.above.offset * 0.9)
    form = LinearForm(torch.full((1, 4, 9), -1.0, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64))
    (pulled,) = relaxation.pull_back(form)
    below = [pulled.const + (pulled.coeff * p).sum(2) - (form.coeff * op(p)).sum(2) for (p,) in laws.points(op, [x], 2)]
    assert max(float(b.max()) for b in below) > 1e-6


@pytest.mark.parametrize("name", NETS)
def test_merged_margins_are_at_least_those_of_separate_logits(name):
    network = NETS[name](seed=4).in_float64()
    _, box = region(network, "8/255", seed=5)
    labels = torch.tensor([0, 1, 2])
    bounds = IntervalWalk(network)
    boxes = bounds.boxes([box], keep=walk.EVERYTHING)
    logits = boxes[head(bounds.plan).index]
    lower, upper = (end.flatten(1) for end in (logits.center - logits.radius, logits.center + logits.radius))
    merged = margins(head(bounds.plan), boxes, labels)
    for i, y in enumerate(labels.tolist()):
        separate = lower[i, y] - torch.cat([upper[i, :y], upper[i, y + 1 :]])
        assert bool((merged[:, i] >= separate - 1e-9).all())
        if name == "no-tail":
            assert torch.allclose(merged[:, i], separate)


def test_an_affine_network_is_bounded_exactly():
    d = nets.Drawing(0)
    x = d(nn.Linear(20, 9), d(nn.Flatten(), d(nn.Conv2d(1, 5, 3), d.input(1, 4, 4))))
    network = d.finish(x, shapes=((None, 9),)).in_float64()
    _, box = region(network, "0.1", seed=6)
    labels = torch.tensor([3, 0, 8])
    least = MarginBounds(network).least(box, labels)
    for i, y in enumerate(labels.tolist()):
        attained = []
        for j in [j for j in range(9) if j != y]:
            point = box.center[i : i + 1].clone().requires_grad_()
            out = network(point)[0]
            (g,) = torch.autograd.grad(out[y] - out[j], point)
            corner = network(box.center[i : i + 1] - g.sign() * box.radius[i : i + 1])[0]
            attained.append(float(corner[y] - corner[j]))
        assert abs(min(attained) - float(least[i])) < 1e-9


@pytest.mark.parametrize("rounding", [EXACT, REAL, FLOAT32], ids=["none", "real", "float32"])
@pytest.mark.parametrize("name", NETS)
def test_margins_fall_as_eps_grows_and_a_batch_equals_its_samples(name, rounding, device):
    network = NETS[name](seed=7).in_float64().to(device)
    bounds = MarginBounds(network, rounding)
    labels = torch.tensor([0, 1, 2], device=device)
    last = torch.full((3,), torch.inf, dtype=torch.float64, device=device)
    for eps in ("0", "1/255", "2/255", "8/255", "0.3"):
        _, box = region(network, eps, seed=8, device=device)
        least = bounds.least(box, labels)
        assert bool((least <= last + 1e-9).all())
        last = least
        for i in range(3):
            alone = bounds.least(Interval(box.center[i : i + 1], box.radius[i : i + 1]), labels[i : i + 1])
            assert torch.allclose(alone, least[i : i + 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_modes_are_ordered(name, device):
    network = NETS[name](seed=9).in_float64().to(device)
    _, box = region(network, "8/255", seed=10, device=device)
    labels = torch.tensor([0, 1, 2], device=device)
    none, real, deployed = (MarginBounds(network, r).least(box, labels) for r in (EXACT, REAL, FLOAT32))
    assert bool((real <= none).all())
    assert bool((deployed <= real).all())
    assert torch.allclose(real, none, rtol=1e-9, atol=1e-9)


def test_a_final_softmax_keeps_the_order_and_float32_asks_for_a_gap():
    plain = nets.mlp(seed=11).in_float64()
    d = nets.Drawing(11)
    x = d(nn.ReLU(), d(nn.Linear(12, 9), d.input(12)))
    x = d(nn.Linear(8, 5), d(nn.ReLU(), d(nn.Linear(9, 8), x)))
    soft = d.finish(d(nn.Softmax(1), x), shapes=((None, 5),)).in_float64()
    soft.load_state_dict(plain.state_dict())
    _, box = region(plain, "1/255", seed=12)
    labels = torch.tensor([0, 1, 2])
    assert torch.equal(MarginBounds(plain, REAL).least(box, labels), MarginBounds(soft, REAL).least(box, labels))
    gap = MarginBounds(plain, FLOAT32).least(box, labels) - MarginBounds(soft, FLOAT32).least(box, labels)
    assert bool((gap >= 2.0**-17 * 0.999).all())


def test_two_hundred_classes_at_batch_128_stay_within_a_gigabyte():
    network = nets.mlp(256, 512, 200, seed=13).in_float64()
    _, box = region(network, "1/255", seed=14, batch=128)
    bounds = MarginBounds(network, FLOAT32)
    labels = torch.arange(128)
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert bounds.least(box, labels).shape == (128,)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1 << 20, f"{grown >> 10} MiB"


def test_a_nan_weight_certifies_nothing():
    network = nets.mlp(seed=15).in_float64()
    with torch.no_grad():
        next(network.parameters())[0, 0] = torch.nan
    _, box = region(network, "1/255", seed=16)
    least = MarginBounds(network, FLOAT32).least(box, torch.tensor([0, 1, 2]))
    assert not bool((least > 0).any())


def test_possible_float32_overflow_certifies_nothing():
    network = nets.mlp(12, 9, 5, seed=17).in_float64()
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1e30)
    _, box = region(network, "0", seed=18)
    labels = network(box.center).argmax(1)
    assert bool((MarginBounds(network, REAL).least(box, labels) > 0).all())
    assert not bool((MarginBounds(network, FLOAT32).least(box, labels) > 0).any())


@pytest.mark.parametrize("op", [ops.Clip(-1.0, 1.0), nn.Hardsigmoid(), ops.Sign(), nn.Sigmoid(), nn.Tanh()], ids=str)
def test_possible_float32_overflow_before_a_bounded_function_certifies_nothing(op):
    """``inf - inf`` is NaN in the file, whatever function of it could be bounded."""
    d = nets.Drawing(40)
    x = d(op, d(nn.Linear(2, 1, bias=False), d.input(2)))
    network = d.finish(d(nn.Linear(1, 2), x), shapes=((None, 2),)).in_float64()
    with torch.no_grad():
        first, last = (m for m in network.modules() if isinstance(m, nn.Linear))
        first.weight.copy_(torch.tensor([[3e38, -3e38]]))
        last.weight.zero_()
        last.bias.copy_(torch.tensor([5.0, 0.0]))
    box = Interval(torch.full((1, 2), 2.0).double(), torch.zeros(1, 2).double())
    rounding = Outward(deployed=True, kernels=laws.Measured())
    for method in METHODS:
        assert not bool((MarginBounds(network, rounding, method=method).least(box, torch.tensor([0])) > 0).any())


def test_sigmoid_is_refused_by_name_in_float32_and_bounded_in_real():
    from pipeline.errors import InputRejected

    d = nets.Drawing(19)
    x = d(nn.Sigmoid(), d(nn.Linear(12, 9), d.input(12)))
    network = d.finish(d(nn.Linear(9, 5), x), shapes=((None, 5),)).in_float64()
    _, box = region(network, "1/255", seed=20)
    with pytest.raises(InputRejected, match="Sigmoid"):
        MarginBounds(network, FLOAT32).least(box, torch.tensor([0, 1, 2]))
    assert MarginBounds(network, REAL).least(box, torch.tensor([0, 1, 2])).isfinite().all()
