"""One number a sample: what is certified of its label is what ONNX Runtime says of it, on both sides of any threshold."""

from __future__ import annotations

import copy
from fractions import Fraction
from itertools import product

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pipeline.bounds.margins import KERNEL, MarginBounds
from pipeline.core.binary import Threshold, without_threshold
from pipeline.core.network import Network
from pipeline.core.rounding import rounding_of
from pipeline.core.threat import LinfBall
from pipeline.errors import UsageError
from pipeline.onnx.runtime import Session
from tests.onnx.files import load, model, node, saved, session, weights

TAILS = {
    "logit": [],
    "probability": [node("Sigmoid", ["z"], ["p"])],
    "squeezed": [node("Sigmoid", ["z"], ["s"]), node("Squeeze", ["s", "one"], ["p"])],
    "alone": [node("Squeeze", ["z", "one"], ["p"])],
}
THRESHOLDS = {"logit": (0.0, 0.3, -1.7), "alone": (0.0,), "probability": (0.5, 0.2, 0.93), "squeezed": (0.5,)}
CASES = [(tail, t) for tail in TAILS for t in THRESHOLDS[tail]]
FLOAT32 = "float32-any-order"


def network_of(tmp_path, tail: str, seed: int = 0, bias: float = 0.0) -> tuple[Network, Session, onnx.ModelProto]:
    """Two layers with parameters of both signs, as imported and as ONNX Runtime runs them."""
    nodes = [
        node("Gemm", ["x", "a", "b"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "c", "d"], ["z"]),
        *TAILS[tail],
    ]
    nodes[-1].output[0] = "y"
    held = {"a": weights(6, 9, seed=seed), "b": weights(9, seed=seed + 1), "c": weights(9, 1, seed=seed + 2)}
    made = model(nodes, ["n", 6], {**held, "d": np.float32([bias]), "one": np.array([1])})
    path = saved(tmp_path, made)
    return load(path).network, session(path), made


def says(ran: Session, x: np.ndarray, t: float) -> np.ndarray:
    """The label that the file gives, in plain words: whether its one number is above the threshold."""
    return (ran(x)[0].reshape(-1) > np.float32(t)).astype(np.int64)


def least(network: Network, x: torch.Tensor, labels: np.ndarray, eps: Fraction, mode: str, method: str) -> np.ndarray:
    bounds = MarginBounds(network.in_float64(), rounding_of(mode, kernels={}), method=method)
    return bounds.least(LinfBall(eps, -10, 10).region(x.double()), torch.from_numpy(labels)).numpy()


@pytest.mark.parametrize(("tail", "t"), CASES)
def test_no_point_of_a_certified_box_has_the_other_label(tmp_path, tail, t):
    rng = np.random.default_rng(3)
    certified = np.zeros(2, int)
    for seed in range(3):
        network, ran, _ = network_of(tmp_path, tail, seed)
        threshold = Threshold.of(network, t)
        assert threshold.probability == (tail in ("probability", "squeezed"))
        pair = threshold.behind(network)
        x = torch.from_numpy(rng.standard_normal((40, 6)).astype(np.float32))
        labels = says(ran, x.numpy(), threshold.value)
        assert (pair(x).argmax(1).numpy() == labels).all()
        for eps, method in product((Fraction(1, 400), Fraction(1, 80)), ("ibp", "crown")):
            proved = least(pair, x, labels, eps, FLOAT32, method) > 0
            radius = np.float32(20 * float(eps) * (1 - 1e-6))
            corners = np.sign(rng.standard_normal((200, 1, 6))).astype(np.float32)
            # The corners towards the other label, as the gradient of the logit sees them.
            points = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(pair(points)[:, 1].sum(), points)
            worst = x + radius * (-slope.sign()) * (2 * torch.from_numpy(labels)[:, None] - 1)
            tried = np.concatenate([x.numpy() + radius * corners, worst.numpy()[None]])
            for points_ in tried:
                assert (says(ran, points_, threshold.value) == labels)[proved].all()
            certified += [int((proved & (labels == label)).sum()) for label in (0, 1)]
    assert certified.min() > 0, "both labels are certified somewhere"


def nearly(tmp_path, t: float, offsets: np.ndarray) -> tuple[np.ndarray, Session, Network]:
    """A Sigmoid of the input itself, near the logit at which it is ``t``."""
    nodes = [node("Gemm", ["x", "w"], ["z"]), node("Sigmoid", ["z"], ["y"])]
    path = saved(tmp_path, model(nodes, ["n", 1], {"w": np.float32([[1.0]])}))
    x = (np.log(t / (1 - t)) + offsets).astype(np.float32)[:, None]
    return x, session(path), load(path).network


OFFSETS = np.concatenate([s * np.logspace(-9, -1, 4000) for s in (-1, 1)] + [[0.0]])


@pytest.mark.parametrize("t", [0.5, 1e-3, 0.03, 0.2, 0.8, 0.999])
def test_a_float32_sigmoid_near_its_threshold_is_certified_by_a_distance_only(tmp_path, t):
    x, ran, network = nearly(tmp_path, t, OFFSETS)
    threshold = Threshold.of(network, t)
    pair, labels = threshold.behind(network), (OFFSETS > 0).astype(np.int64)
    proved = least(pair, torch.from_numpy(x), labels, Fraction(0), FLOAT32, "ibp") > 0
    assert (says(ran, x, threshold.value) == labels)[proved].all()
    assert proved[np.abs(OFFSETS) > 2e-2].all(), "what is clearly on one side is certified"


def test_without_the_distance_a_tie_would_be_certified(tmp_path):
    """The seeded fault: margins of a bare logit, which are positive where the float32 Sigmoid gives exactly 0.5."""
    x, ran, network = nearly(tmp_path, 0.5, OFFSETS)
    labels, pair = (OFFSETS > 0).astype(np.int64), Threshold(0.5, probability=True).behind(network)
    bare = copy.deepcopy(pair)
    bare.graph.binary_softmax = nn.Identity()
    proved = least(bare, torch.from_numpy(x), labels, Fraction(0), FLOAT32, "ibp") > 0
    assert not (says(ran, x, 0.5) == labels)[proved].all()


def test_a_float32_sigmoid_errs_by_less_than_is_taken_for_granted(tmp_path):
    """Half of ``KERNEL``, at floats of every size and sign."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 1 << 20, dtype=np.uint32).view(np.float32)
    x = np.concatenate([bits[np.isfinite(bits)], rng.uniform(-30, 30, 1 << 20).astype(np.float32)])[:, None]
    _, ran, _ = nearly(tmp_path, 0.5, OFFSETS)
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.abs(ran(x)[0] - exact).max() < KERNEL / 2


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-6, -0.5, 2.0])
def test_a_threshold_at_which_no_probability_decides_is_refused(value):
    with pytest.raises(UsageError, match="--threshold"):
        Threshold(value, probability=True)


@pytest.mark.parametrize(("tail", "t"), CASES)
def test_what_was_put_behind_is_taken_away_again(tmp_path, tail, t):
    network, _, _ = network_of(tmp_path, tail)
    back = without_threshold(Threshold.of(network, t).behind(network), network)
    assert [s.name for s in back.plan().steps] == [s.name for s in network.plan().steps]
    assert back.outputs == network.outputs
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back(x), network(x))
    assert without_threshold(network, network).outputs == network.outputs
