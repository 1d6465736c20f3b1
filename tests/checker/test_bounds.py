"""The checker proves nothing false: bounds by slopes, splits and multipliers drawn by chance, beside minima by enumeration."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from pipeline.checker.bounds import CheckerBounds, Fault
from pipeline.checker.graph import FileGraph
from tests.checker.small import Drawing, Exact, drawn

SOME = 1e-9
"""By how much the enumeration may err."""


def box(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([low]), np.array([high])


def lines_of(
    graph: FileGraph, rows: int, rng: np.random.Generator
) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For half of the entries of each ReLU a slope, for a quarter a sign, with a multiplier of a size by chance."""
    found = {}
    for relu in graph.relus:
        shape = rows, int(np.prod(graph.shapes[relu]))
        slopes = np.where(rng.random(shape) < 0.5, rng.random(shape).round(rng.integers(0, 3)), np.nan)
        sign = np.where(rng.random(shape) < 0.25, rng.choice([-1.0, 1.0], shape), 0.0)
        found[relu] = slopes, sign, np.where(sign == 0, 0.0, rng.exponential(0.3, shape) * (rng.random(shape) < 0.7))
    return found


@pytest.mark.parametrize("seed", [*range(24), *(pytest.param(s, marks=pytest.mark.slow) for s in range(24, 400))])
def test_no_bound_is_above_the_least_value(seed: int) -> None:
    rng, content = np.random.default_rng(seed), drawn(seed)
    graph, middle, radius = FileGraph(content), rng.uniform(-0.5, 0.5), 10 ** rng.uniform(-3, 0)
    low, high = middle - radius, middle + radius
    exact, rows, deployed = Exact(content, low, high), 12, bool(rng.integers(2))
    entries = [np.arange(len(v)) for v in (np.zeros(int(np.prod(s))) for s in graph.shapes)]
    near = {}
    for relu in graph.relus[1:]:
        source = graph.steps[relu - 1].inputs[0]
        assumed = {k: (a, 0 * s, 0 * b) for k, (a, s, b) in lines_of(graph, 2 * len(entries[source]), rng).items()}
        near[source] = np.tile(entries[source], 2), np.repeat([1.0, -1.0], len(entries[source])), assumed
    bounds = CheckerBounds(graph, box(low, high), near if seed % 3 else {}, deployed=deployed, tighten=seed % 3 == 1)
    last = {
        step.name: value for value, step in zip(bounds.values[1:], graph.steps, strict=True)
    }  # of a pool, the means
    for name, value in last.items():
        inside = exact.values[name]
        assert (value.lower <= inside + SOME).all()
        assert (inside - SOME <= value.upper).all()
    if deployed:
        points = np.linspace(low, high, 9, dtype=np.float32).clip(
            np.nextafter(np.float32(low), 2), np.nextafter(np.float32(high), -2)
        )
        run = np.concatenate(
            [onnxruntime.InferenceSession(content).run(None, {"x": p.reshape(1, 1)})[0] for p in points]
        )
        assert (bounds.values[graph.output].lower <= run).all()
        assert (run <= bounds.values[graph.output].upper).all()
    form = rng.choice([-1.0, 0.0, 1.0], (rows, 3))
    assumed, at_points = lines_of(graph, rows, rng), exact.output @ form.T
    holds = np.ones_like(at_points, bool)
    for relu, (_, sign, _) in assumed.items():
        read = exact.values[graph.steps[graph.steps[relu - 1].inputs[0] - 1].name]
        holds &= (sign[None] * read[:, None] >= -SOME).all(2)
    least = np.where(holds, at_points, np.inf).min(0)
    found = bounds.least({graph.output: form}, assumed)
    assert (found <= least + SOME).all()
    assert (bounds.least({graph.output: form}, {}) <= at_points.min(0) + SOME).all()
    assert (bounds.least({graph.output: form}, {}, tail=True) <= at_points.min(0) + SOME).all()
    # Over a point, bounds are as good as exact: none of this is true because nothing is said.
    alone = CheckerBounds(graph, box(middle, middle), {}, deployed=False, tighten=False)
    assert (form @ Exact(content, middle, middle).output[0] - alone.least({graph.output: form}, {}) < 1e-6).all()


def absorbed(terms: int, large: float) -> bytes:
    """``y0 = relu(large + sum (1.8/terms) x_i) - large``, ``y1 = 1``: a float sum may lose every term, and all of ``y0``."""
    d = Drawing(0)
    x = d.node("Gemm", "x", d.constant(np.full((terms, 1), 1.8 / terms, np.float32)), d.constant(np.float32([large])))
    last = d.constant(np.float32([[1, 0]])), d.constant(np.float32([-large, 1]))
    return d.model(d.node("Gemm", d.node("Relu", x), *last), "n", terms)


def test_what_float32_loses_is_charged() -> None:
    """In exact arithmetic the margin is 0.8, and ONNX Runtime gives another label."""
    content, ones = absorbed(512, 2.0**24), np.ones(512)
    session = onnxruntime.InferenceSession(content)
    assert session.run(None, {"x": ones[None].astype(np.float32)})[0].argmax() == 1
    margin = {}
    for deployed in (False, True):
        bounds = CheckerBounds(graph := FileGraph(content), (ones, ones), {}, deployed=deployed, tighten=False)
        margin[deployed] = float(bounds.least({graph.output: np.array([[1.0, -1.0]])}, {})[0])
    assert 0.7 < margin[False] < 0.8 + 1e-6
    assert margin[True] < 0


@pytest.mark.parametrize("kind", ["offset", "cancelling", "convolution"])
def test_sums_are_charged_what_they_may_lose_in_the_worst_order_and_hardly_more(kind: str) -> None:
    """One term comes first, beside which each of the others is lost; of these, two in five are products by a dead neuron."""
    terms, d, u = 1000, Drawing(0), np.float32(0.99 * 2.0**-24)
    first = np.where(np.arange(terms) % 5 < 2, -1.0, 1.0).astype(np.float32)
    weight, bias = np.full((terms, 1), u), np.float32([kind != "cancelling"])
    if kind == "cancelling":
        weight[2], weight[-1] = 1, -1  # neither by a dead neuron
    x = d.node("Relu", d.node("Mul", "x", d.constant(first[None])))
    if kind == "convolution":
        x = d.node("Reshape", x, d.constant(np.array([0, 250, 2, 2])))
        x = d.node("Flatten", d.node("Conv", x, d.constant(weight.reshape(1, 250, 2, 2)), d.constant(bias)))
    else:
        x = d.node("Gemm", x, d.constant(weight), d.constant(bias))
    content, point, bound = d.model(x, "n", terms), np.ones(terms), {}
    for deployed in (False, True):
        bounds = CheckerBounds(graph := FileGraph(content), (point, point), {}, deployed=deployed, tighten=False)
        bound[deployed] = float(bounds.least({graph.output: np.array([[1.0]])}, {})[0])
    total = bias[0]
    for product in [*(weight[2:3, 0] * (kind == "cancelling")), *(first.clip(0) * weight[:, 0])[3:], 0]:
        total = np.float32(total + product)
    assert bound[True] <= total < bound[False]
    assert 0.9 < (bound[False] - total) / (bound[False] - bound[True]) <= 1


def test_what_float64_loses_is_charged() -> None:
    """A sum to which a large term comes first loses hundreds of small ones: ``c - y``, which is -50, must not seem positive."""
    d, terms, large = Drawing(0), 4096, 2.0**54
    small = np.float32(1.9)
    weight = np.concatenate([np.float32([[large]]), np.full((terms, 1), small)])
    x = d.node("Relu", d.node("Gemm", "x", d.constant(weight), d.constant(np.float32([-large]))))
    c = np.float32(terms * float(small) - 50)
    content = d.model(
        d.node("Gemm", x, d.constant(np.float32([[-1, 0]])), d.constant(np.float32([c, 0]))), "n", terms + 1
    )
    ones = np.ones(terms + 1)
    assert float(c) + large - (ones @ weight.astype(np.float64))[0] > -20, (
        "this library's order loses nothing: take another"
    )
    bounds = CheckerBounds(graph := FileGraph(content), (ones, ones), {}, deployed=False, tighten=False)
    for tail in (False, True):
        assert bounds.least({graph.output: np.array([[1.0, -1.0]])}, {}, tail=tail)[0] < -50


@pytest.mark.parametrize(("scale", "what"), [(2.0**62, "2\\^60"), (np.float32(1e-30), "2\\^60")])
def test_a_range_in_which_float32_may_overflow_is_refused(scale: float, what: str) -> None:
    d = Drawing(0)
    content = d.model(d.node("Mul", "x", d.constant(np.float32([scale]))), "n", 2)
    with pytest.raises(Fault, match=what):
        CheckerBounds(FileGraph(content), (np.ones(2), np.ones(2)), {}, deployed=True, tighten=False)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0**100, 1.0), (2.0**-100, 1.0), (1.0, 2.0**100), (2.0**20, 2.0**-20)])
def test_what_a_runtime_may_flush_or_overflow_before_alpha_and_beta_is_never_proved(alpha: float, beta: float) -> None:
    """A sum of products of 2^-100 is zero where numbers are flushed, whatever alpha makes of it afterwards."""
    d = Drawing(0)
    weight, bias = (np.full(shape, 1 / by, np.float32) for shape, by in (((1, 3), alpha), (3, beta)))
    content = d.model(d.node("Gemm", "x", d.constant(weight), d.constant(bias), alpha=alpha, beta=beta), "n", 1)
    if max(alpha, beta, 1 / alpha, 1 / beta) < 2.0**60:
        assert (
            CheckerBounds(FileGraph(content), box(0, 1), {}, deployed=True, tighten=False).values[-1].lower.min() > 0.9
        )
        return
    with pytest.raises(Fault, match="2\\^60"):
        CheckerBounds(FileGraph(content), box(0, 1), {}, deployed=True, tighten=False)
