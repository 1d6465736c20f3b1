"""Counterexamples that no attack finds, and tiny networks whose every input is tried: bounds alone must refuse them.

A falsifier that runs first hides a wrong bound (as one did in a leading engine, on a residual network of convolutions and
ReLUs). Here none runs. Spikes are planted as Zhou et al. plant counterexamples, SoundnessBench, arXiv 2412.03154: known to
us, invisible to gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.bounds.alpha import Search
from pipeline.bounds.margins import MarginBounds
from pipeline.certify.attack import PGD, attack
from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.network import Network
from pipeline.core.outward import Outward
from pipeline.core.threat import LinfBall
from pipeline.methods import METHODS
from tests import nets
from tests.bounds.executor import Execution, run

ARITHMETIC = {"real": Outward(deployed=False), "float32": Outward(deployed=True)}
STEEP = 2000.0
"""A spike of height 1 is gone within 1/2000 of its place."""
SEARCH = Search(steps=4, until_proved=False)


def fixed(op: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """A layer with the given weights; ``Drawing.finish`` draws biases anew, so these are set after it."""
    op.set_to = (weight, bias)
    return op


def finished(d: nets.Drawing, x, classes: int) -> Network:
    network = d.finish(x, shapes=((None, classes),))
    with torch.no_grad():
        for op in network.modules():
            if hasattr(op, "set_to"):
                weight, bias = op.set_to
                op.weight.copy_(weight.reshape(op.weight.shape))
                if op.bias is not None:
                    op.bias.copy_(torch.zeros_like(op.bias) if bias is None else bias.reshape(op.bias.shape))
    return network


def logits(d: nets.Drawing, spike, far, width: int):
    """``z = (1 - far/1000, 2 spike)``: at the place -1, elsewhere 1 and a slope that leads away from it."""
    w = torch.zeros(2, 1 + width)
    w[1, 0] = 2.0
    w[0, 1:] = -0.001
    return d(fixed(nn.Linear(1 + width, 2), w, torch.tensor([1.0, 0.0])), d(ops.Concat(1), spike, far))


def spiked(d: nets.Drawing, place: Tensor):
    """``relu(1 - k sum_i |x_i - a_i|)`` and its parts, ``|t| = relu(t) + relu(-t)``."""
    n, eye = place.numel(), torch.eye(place.numel())
    x = d(nn.Flatten(), d.input(*place.shape))
    parts = fixed(nn.Linear(n, 2 * n), torch.cat([eye, -eye]), torch.cat([-place.flatten(), place.flatten()]))
    far = d(nn.ReLU(), d(parts, x))
    return d(nn.ReLU(), d(fixed(nn.Linear(2 * n, 1), torch.full((1, 2 * n), -STEEP), torch.ones(1)), far)), far


def dense(place: Tensor) -> Network:
    """The spike in three layers."""
    d = nets.Drawing(0)
    spike, far = spiked(d, place)
    return finished(d, logits(d, spike, far, 2 * place.numel()), 2)


def deep(place: Tensor) -> Network:
    """The same, the spike led through four more layers of positive weights, which ReLUs let pass."""
    d = nets.Drawing(1)
    spike, far = spiked(d, place)
    for a, b in ((1, 6), (6, 6), (6, 6), (6, 1)):
        spike = d(nn.ReLU(), d(fixed(nn.Linear(a, b), torch.full((b, a), 1.0 / a)), spike))
    return finished(d, logits(d, spike, far, 2 * place.numel()), 2)


def highest(place: Tensor) -> Network:
    """``relu(1 - k max_i |x_i - a_i|)``: a maximum in place of a sum, an Abs in place of two ReLUs."""
    d = nets.Drawing(2)
    off = d(ops.Abs(), d(ops.Sub(), d.input(*place.shape), d.constant(place.clone())))
    off = d(nn.Flatten(), off)
    top = d(ops.ReduceMax((1,), keepdim=True), off)
    spike = d(nn.ReLU(), d(fixed(nn.Linear(1, 1), torch.tensor([-STEEP]), torch.ones(1)), top))
    return finished(d, logits(d, spike, off, place.numel()), 2)


def residual(place: Tensor) -> Network:
    """Convolutions and ReLUs with two residual sums, one before the spike and one around it, and a BatchNorm."""
    channels, *size = place.shape
    d, eye = nets.Drawing(3), torch.eye(channels)
    off = d(ops.Sub(), d.input(*place.shape), d.constant(place.clone()))
    first = fixed(nn.Conv2d(channels, 2 * channels, 1, bias=False), torch.cat([eye, -eye]))
    stem = d(nn.ReLU(), d(first, off))
    branch = d(nn.ReLU(), d(fixed(nn.Conv2d(2 * channels, 2 * channels, 1, bias=False), torch.eye(2 * channels)), stem))
    far = d(nn.ReLU(), d(ops.Add(), branch, stem))  # both paths carry |x - a|
    down = fixed(
        nn.Conv2d(2 * channels, 1, size), torch.full((2 * channels * size[0] * size[1],), -STEEP), torch.ones(1)
    )
    spike = d(nn.ReLU(), d(down, far))
    beside = d(nn.ReLU(), d(fixed(nn.Conv2d(1, 1, 1), torch.ones(1)), spike))
    spike = d(ops.Mul(), d(ops.Add(), beside, spike), d.constant(torch.full((1, 1, 1), 0.5)))
    far = d(nn.Flatten(), far)
    return finished(d, logits(d, d(nn.Flatten(), spike), far, 2 * place.numel()), 2)


PLANTED: dict[str, Callable[[Tensor], Network]] = {
    "dense": dense,
    "deep": deep,
    "maximum": highest,
    "residual": residual,
}


def place_of(seed: int) -> Tensor:
    return 0.3 + 0.4 * torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(seed))


def margin(z: Tensor, label: int) -> Tensor:
    return z[:, label] - torch.cat([z[:, :label], z[:, label + 1 :]], 1).amax(1)


@pytest.mark.parametrize("name", PLANTED)
def test_neither_random_search_nor_pgd_finds_what_is_planted(name):
    """Else the tests below would show no more than an attack does."""
    place, ball = place_of(0), LinfBall(Fraction(1, 10))
    network = PLANTED[name](place)
    x = (place + 0.06 * torch.randn(place.shape, generator=torch.Generator().manual_seed(1)).sign())[None]

    def predict(points: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(points)).numpy()

    assert predict(place[None].numpy()).argmax(1) == 1
    labels, index = torch.tensor([0]), np.array([0])
    assert not attack(network, predict, x, labels, index, ball, PGD().longer).broken.any()
    around = x + 0.1 * (2 * torch.rand(20_000, *place.shape, generator=torch.Generator().manual_seed(2)) - 1)
    assert (predict(around.numpy()).argmax(1) == 0).all()


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PLANTED)
def test_no_method_certifies_a_planted_counterexample(name, method, arithmetic):
    """From boxes far larger than the spike to boxes within it, where bounds are nearly exact, and to the point itself."""
    for seed in range(2):
        place = place_of(seed)
        network = PLANTED[name](place)
        with torch.no_grad():
            single, exact = network(place[None]).double(), network.in_float64()(place[None].double())
        assert float(margin(single, 0)) < 0
        eps = torch.tensor([0.1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 0.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
        # The place is anywhere in the box, or at a corner of it.
        shift = 2 * torch.rand(7, *place.shape, generator=torch.Generator().manual_seed(seed)) - 1
        center = place.double() + torch.cat([eps * shift, eps.expand(7, *place.shape)])
        box = Interval(center, (center - place).abs() + torch.cat([eps, eps]) * 1e-6)
        bounds = MarginBounds(network.in_float64(), ARITHMETIC[arithmetic], method=method, search=SEARCH)
        least = bounds.least(box, torch.zeros(14, dtype=torch.int64))
        # The planted point's own float64 evaluation errs by less than 1e-9: weights are at most 2000.
        assert not bool((least > float(margin(exact, 0)) + 1e-9).any())
        assert arithmetic == "real" or not bool((least > float(margin(single, 0))).any())


@pytest.mark.parametrize("name", ["dense", "residual"])
def test_executions_in_other_orders_at_the_planted_point(name):
    place = place_of(4)
    network = PLANTED[name](place)
    bounds = MarginBounds(network.in_float64(), ARITHMETIC["float32"], method="alpha-crown", search=SEARCH)
    x = place[None].double()
    least = float(bounds.least(Interval(x, torch.full_like(x, 1e-9)), torch.tensor([0])))
    for order in ("given", "large first", "tree"):
        z = torch.from_numpy(run(network, place[None].numpy(), Execution(order), folded=False)).reshape(1, -1).double()
        assert least <= float(margin(z, 0))


def two_inputs(kind: str, seed: int) -> Network:
    """A network of two inputs and three classes, weights of both signs, labels that change across the square."""
    d = nets.Drawing(seed)
    x = d.input(2)
    first = d(nn.Linear(2, 8), x)
    if kind == "residual":
        h = d(nn.ReLU(), first)
        h = d(nn.ReLU(), d(ops.Add(), d(nn.Linear(8, 8), d(nn.ReLU(), d(nn.Linear(8, 8), h))), h))
    elif kind == "concat":
        h = d(nn.ReLU(), first)
        h = d(ops.Concat(1), d(nn.ReLU(), d(nn.Linear(8, 4), h)), d(nn.LeakyReLU(-0.3), d(nn.Linear(8, 4), h)))
    elif kind == "maxima":
        h = d(ops.Max(), first, d(nn.Linear(2, 8), x))
        h = d(ops.Min(), h, d(ops.Clip(-0.5, 1.0), d(nn.Linear(8, 8), h)))
    elif kind == "products":
        h = d(ops.Product(), first, d(nn.ReLU(), d(nn.Linear(2, 8), x)))
        h = d(ops.Abs(), d(nn.Linear(8, 8), h))
    else:
        h = d(nn.ReLU(), d(nn.BatchNorm1d(8), d(nn.Linear(8, 8), d(nn.ReLU(), first))))
    network = d.finish(d(nn.Linear(8, 3), h), shapes=((None, 3),))
    with torch.no_grad():
        for op in network.modules():
            if isinstance(op, nn.Linear):
                op.weight.mul_(3)
    return network


def grid(box: Interval, n: int) -> Tensor:
    """``n * n`` float32 points of a box, its corners among them, each moved inward until it lies inside."""
    axes = []
    for c, r in zip(box.center[0], box.radius[0], strict=True):
        line = (c + r * torch.linspace(-1, 1, n, dtype=torch.float64)).float()
        outside = (line.double() - c).abs() > r
        axes.append(torch.where(outside, line.nextafter(c.float()), line))
    return torch.cartesian_prod(*axes)


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
@pytest.mark.parametrize("kind", ["plain", "residual", "concat", "maxima", "products"])
def test_every_input_of_the_largest_certified_square_is_classified_as_certified(kind, arithmetic):
    """Each method's radius is pushed to where its certificate just holds, and the square is searched by brute force."""
    network = two_inputs(kind, seed=0)
    exact = network.in_float64()
    center = torch.rand(8, 2, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    labels = exact(center).argmax(1)
    low = torch.zeros(8, 1, dtype=torch.float64)
    for method in METHODS:
        bounds = MarginBounds(exact, ARITHMETIC[arithmetic], method=method, search=SEARCH)
        high = 2 * low + 0.1  # a method certifies at least what the one before it did
        for _ in range(6):
            middle = (low + high) / 2
            proved = (bounds.least(Interval(center, middle.expand(8, 2)), labels) > 0)[:, None]
            low, high = torch.where(proved, middle, low), torch.where(proved, high, middle)
        assert bool((low > 0).any()), "nothing is certified: too easy a test"
        for i in range(8):
            points = grid(Interval(center[i : i + 1], low[i : i + 1].expand(1, 2)), 41)
            with torch.no_grad():
                found = [exact(points.double())] + ([network(points)] if arithmetic == "float32" else [])
            for z in found:
                assert bool((margin(z, int(labels[i])) > 0).all()), f"{kind}, {method}, sample {i}"


@pytest.mark.parametrize("kind", ["plain", "residual", "concat", "maxima"])
def test_every_float32_in_a_square_of_a_few_units_in_the_last_place(kind):
    """289 points are all that float32 has there, and each has a margin of at least the bound."""
    network = two_inputs(kind, seed=5)
    exact = network.in_float64()
    center = torch.tensor([[0.7, -0.3]])
    lines = []
    for c in center[0]:
        line = [c]
        for _ in range(8):
            line = [line[0].nextafter(torch.tensor(-9.0)), *line, line[-1].nextafter(torch.tensor(9.0))]
        lines.append(torch.stack(line))
    points = torch.cartesian_prod(*lines)
    radius = (points.double() - center.double()).abs().amax(0, keepdim=True)
    label = exact(center.double()).argmax(1)
    with torch.no_grad():
        single, double = (margin(z, int(label)).min() for z in (network(points), exact(points.double())))
    for method in METHODS:
        for name, rounding in ARITHMETIC.items():
            least = float(MarginBounds(exact, rounding, method=method).least(Interval(center.double(), radius), label))
            assert least <= float(double) + 1e-14
            assert name == "real" or least <= float(single)
            assert least > float(double) - 0.01, "so loose a bound says nothing"
