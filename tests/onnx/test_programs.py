"""Softmax and normalisation by ONNX Runtime never leave what their programs are allowed, of large, small and equal values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.onnx import runtime
from pipeline.onnx.kernel_sweep import measure
from pipeline.rules import programs, rule_for
from tests.onnx import files

LENGTHS = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33, 100, 768, pytest.param(4096, marks=pytest.mark.slow)]
ROWS = 24


@pytest.fixture(scope="module")
def deployed() -> Outward:
    """Allowed of the exponential is twice what a sample of inputs shows of it, less what is charged for not seeing it."""
    *_, seen = measure("Softmax", count=1 << 14)
    return Outward(deployed=True, kernels={"Softmax": (2.0**-110, 2 * seen.relative)})


def suspects(n: int) -> Iterator[np.ndarray]:
    """Rows of n numbers."""
    rng = np.random.default_rng(n)
    base = rng.standard_normal((ROWS, n)).astype(np.float32)
    for scale in (1e-42, 1e-30, 1e-6, 1.0, 10.0, 50.0, 90.0, 200.0, 1e4):
        yield base * np.float32(scale)
    for center in (1e-3, 3.7, -88.0, 1e4):
        yield np.full((2, n), center, np.float32)
        yield (base * np.float32(1e-3) + np.float32(center)).astype(np.float32)
    peak = base * 0
    peak[:, rng.integers(n)] = 1e5
    yield peak
    yield np.sort(base * 30, axis=1)
    # Entries that contribute alike to the error of the sum, and those about to underflow.
    yield -np.log(np.arange(1, n + 1, dtype=np.float32))[None] * rng.uniform(0.5, 3, (ROWS, 1)).astype(np.float32)
    low = rng.uniform(-104, -80, (ROWS, n)).astype(np.float32)
    low[:, 0] = 0
    yield low


def used(op: nn.Module, run: Callable[[np.ndarray], np.ndarray], x: np.ndarray, rounding: Outward) -> float:
    """How much of the radius around a point is used at most; entries of which nothing is said use none."""
    point = torch.from_numpy(x).double()
    box = rule_for(op).interval(op, Interval(point, torch.zeros_like(point)), rounding=rounding)
    off = (torch.from_numpy(run(x)).double() - box.center).abs() / box.radius
    return float(torch.where(box.radius.isfinite(), off, 0.0).max())


def running(
    operator: str, constants: dict[str, np.ndarray], rank: int, **attributes: object
) -> Callable[..., np.ndarray]:
    nodes = [files.node(operator, ["x", *constants], ["y"], **attributes)]
    shape = ["n", "m", *([] if rank < 3 else ["k"])]
    session = runtime.session(files.model(nodes, shape, constants).SerializeToString())
    return lambda x: session(x)[0]


@pytest.mark.parametrize("n", LENGTHS)
@torch.no_grad()
def test_softmax_stays_inside(n, deployed):
    for op, name in ((nn.Softmax(-1), "Softmax"), (nn.LogSoftmax(-1), "LogSoftmax")):
        run = running(name, {}, 2, axis=-1)
        assert max(used(op, run, x, deployed) for x in suspects(n)) <= 1


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
@torch.no_grad()
def test_normalisation_stays_inside(n, eps, deployed):
    w, b = files.weights(n), files.weights(n, seed=1)
    layer = nn.LayerNorm(n, eps=float(np.float32(eps))).double()
    layer.weight.copy_(torch.from_numpy(w))
    layer.bias.copy_(torch.from_numpy(b))
    run = running("LayerNormalization", {"w": w, "b": b}, 2, axis=-1, epsilon=eps)
    assert max(used(layer, run, x, deployed) for x in suspects(n)) <= 1
    instance = nn.InstanceNorm1d(2, eps=float(np.float32(eps)), affine=True).double()
    if n == 1:
        return  # torch has no statistics of one entry
    instance.weight.copy_(torch.from_numpy(w[:2]))
    instance.bias.copy_(torch.from_numpy(b[:2]))
    run = running("InstanceNormalization", {"w": w[:2], "b": b[:2]}, 3, epsilon=eps)
    assert max(used(instance, run, x.reshape(-1, 2, n), deployed) for x in suspects(n)) <= 1


@torch.no_grad()
def test_a_sum_in_a_bad_order_stays_inside_and_a_smaller_allowance_does_not(deployed, monkeypatch):
    """One large exponential first, then many that it absorbs one by one: the sum in that order loses all of them."""
    n = 4096
    x = np.full((1, n), np.log(2.0**-24.5), np.float32)
    x[0, 0] = 0

    def absorbing(x: np.ndarray) -> np.ndarray:
        e, total = np.exp(x - x.max()).astype(np.float32), np.float32(0)
        for value in e[0]:
            total = np.float32(total + value)
        return e * (np.float32(1) / total)

    op = nn.Softmax(-1)
    assert used(op, absorbing, x, deployed) <= 1
    monkeypatch.setattr(programs, "gamma", lambda n, unit: 4 * unit)
    assert used(op, absorbing, x, replace(deployed, kernels={"Softmax": (2.0**-110, 1e-7)})) > 1


@torch.no_grad()
def test_a_variance_that_cancels_stays_inside_and_a_smaller_allowance_does_not(deployed, monkeypatch):
    """The mean square less the squared mean, summed one by one: what every digit of the variance is lost in."""
    n = 64
    x = (np.float32(3) + np.random.default_rng(3).standard_normal((1, n)) * 0.03).astype(np.float32)
    op = nn.LayerNorm(n, elementwise_affine=False)

    def cancelling(x: np.ndarray) -> np.ndarray:
        mean = square = np.float32(0)
        for value in x[0]:
            mean, square = np.float32(mean + value), np.float32(square + value * value)
        mean, square = np.float32(mean / n), np.float32(square / n)
        return (x - mean) / np.sqrt(np.float32(square - mean * mean + np.float32(1e-5)))

    assert used(op, cancelling, x, deployed) <= 1
    monkeypatch.setattr(programs, "gamma", lambda n, unit: unit / 8)
    assert used(op, cancelling, x, deployed) > 1


@torch.no_grad()
def test_an_error_of_the_exponential_reaches_the_softmax(deployed):
    """Half the error that a kernel has is too little."""
    x = np.array([[0.0, -1.0, -2.0]], np.float32)

    def worse(x: np.ndarray) -> np.ndarray:
        e = np.exp(x.astype(np.float64)) * (1 + np.array([0.0, 1e-4, -1e-4]))
        return (e / e.sum()).astype(np.float32)

    def allowing(relative: float) -> Outward:
        return Outward(deployed=True, kernels={"Softmax": (0.0, relative)})

    assert used(nn.Softmax(-1), worse, x, allowing(1e-4)) <= 1
    assert used(nn.Softmax(-1), worse, x, allowing(2.5e-5)) > 1
