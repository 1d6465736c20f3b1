"""Heads of classifiers, drawn at random: what is certified is what ONNX Runtime says at every point that is tried."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch

from pipeline.bounds.margins import MarginBounds, softmax_gap
from pipeline.certify import PGD, attack
from pipeline.certify.attack_objective import AttackObjective
from pipeline.core import network as networks
from pipeline.core.interval import Interval
from pipeline.core.rounding import rounding_of
from pipeline.core.threat import LinfBall
from pipeline.errors import InputRejected, PipelineError
from pipeline.onnx import runtime
from pipeline.rules import require
from tests import nets
from tests.certify.test_ladder import deployed
from tests.onnx.files import load, model, node, saved, session, weights

CLASSES = 6
MANY = 32
SEEDS = range(40)
SIDE = np.linspace(-1, 1, 13)
DIRECTIONS = np.array(list(itertools.product(SIDE, SIDE)), np.float32)
VISIBLE = 1e-5
"""Margins below this may be lost to float32, for which real arithmetic does not answer."""


def head(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[int, ...]]:
    """A Softmax behind ``z`` (N, 6), in groups half the time, with other operators; constants; the shape of a sample."""
    nodes, constants, shape, value = [], {}, (CLASSES,), "z"
    kinds = rng.choice(["softmax", "reshape", "scale", "clip", "shift"], int(rng.integers(0, 3))).tolist()
    grouped = ["reshape", "softmax"] if rng.random() < 0.5 else ["softmax"]
    for i, kind in enumerate(kinds[:1] + grouped + kinds[1:]):
        after, inputs, attributes = f"h{i}", [value], {}
        if kind == "softmax":
            op_type = str(rng.choice(["Softmax", "LogSoftmax"]))
            attributes = {"axis": int(rng.choice([a for a in range(-len(shape), len(shape) + 1) if a]))}
        elif kind == "reshape":
            op_type, shape = "Reshape", [(6,), (2, 3), (3, 2), (6, 1), (1, 6), (6, 1, 1), (1, 2, 3)][rng.integers(7)]
            constants[f"c{i}"] = np.array([0, *shape], np.int64)
        elif kind == "clip":
            op_type = "Clip"
            constants |= {f"c{i}": np.float32(-0.1 * rng.random()), f"d{i}": np.float32(0.3 * rng.random())}
        else:
            op_type = "Mul" if kind == "scale" else "Add"
            size = (1,) if rng.random() < 0.6 else shape
            constants[f"c{i}"] = (rng.choice([0.2, 1, 20]) * rng.standard_normal(size)).astype(np.float32)
        inputs += [name for name in (f"c{i}", f"d{i}") if name in constants]
        nodes.append(node(op_type, inputs, [after], **attributes))
        value = after
    nodes[-1].output[0] = "y"
    return nodes, constants, shape


def falsely_certified(folder, seeds) -> tuple[int, int, int]:
    """How many boxes are certified, how many of them falsely, and how many files are refused."""
    certified = false = refused = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        nodes, constants, _ = head(rng)
        body = [
            node("Gemm", ["x", "w1", "b1"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("Gemm", ["b", "w2", "b2"], ["z"]),
        ]
        constants |= {
            "w1": 4 * weights(2, 8, seed=seed),
            "b1": weights(8, seed=seed + 1),
            "b2": weights(6, seed=seed + 3) / 4,
        }
        constants["w2"] = weights(8, 6, seed=seed + 2) * np.float32(rng.choice([1, 0.05]))
        path = saved(folder, model([*body, *nodes], ["N", 2], constants))
        run = session(path)
        try:
            network = load(path).network
            require(network)
        except InputRejected:
            refused += 1
            continue
        x, eps = rng.random((MANY, 2), np.float32), np.float32(rng.choice([0.03, 0.3]))
        labels = run(x)[0].reshape(MANY, -1).argmax(1)
        points = (x[:, None] + eps * DIRECTIONS).astype(np.float32)
        said = run(points.reshape(-1, 2))[0].reshape(MANY, len(DIRECTIONS), -1).argmax(2)
        for mode, least in (("float32-any-order", 0.0), ("real", VISIBLE)):
            box = Interval(torch.from_numpy(x).double(), torch.full((MANY, 2), float(eps) * (1 + 1e-6)).double())
            try:
                found = MarginBounds(network.in_float64(), rounding_of(mode), method="crown-ibp").least(
                    box, torch.from_numpy(labels)
                )
            except PipelineError:
                continue  # a Softmax inside has no float32 bound
            proved = (found > least).numpy()
            certified += int(proved.sum())
            false += int((proved & (said != labels[:, None]).any(1)).sum())
    return certified, false, refused


def test_what_is_certified_is_what_the_runtime_says(tmp_path):
    certified, false, refused = falsely_certified(tmp_path, SEEDS)
    assert false == 0
    assert certified > 100
    assert refused < 20


def test_a_softmax_in_groups_set_aside_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "_all_classes", lambda op, shape: True)
    assert falsely_certified(tmp_path, SEEDS)[1] > 0


def aside(nodes, folder, shape=CLASSES):
    path = saved(folder, model(nodes, ["N", shape], {"s": np.array([0, 2, 3]), "f": np.array([0, 6, 1, 1])}))
    plan, softmax = load(path).network.plan().before_softmax()
    return softmax is not None, len(plan.steps)


def test_one_softmax_over_all_classes_is_set_aside_and_nothing_else(tmp_path):
    soft = node("Softmax", ["x"], ["y"], axis=1)
    assert aside([soft], tmp_path) == (True, 0)
    assert aside([node("Reshape", ["x", "f"], ["h"]), node("LogSoftmax", ["h"], ["y"], axis=1)], tmp_path) == (True, 1)
    assert aside([node("Softmax", ["x"], ["h"], axis=-1), node("Reshape", ["h", "s"], ["y"])], tmp_path) == (True, 0)
    assert aside([node("Reshape", ["x", "s"], ["h"]), node("Softmax", ["h"], ["y"], axis=-1)], tmp_path) == (False, 2)
    assert aside([node("Softmax", ["x"], ["h"], axis=1), node("Softmax", ["h"], ["y"], axis=1)], tmp_path) == (True, 1)


@pytest.mark.parametrize("op", [torch.nn.Softmax(1), torch.nn.LogSoftmax(1)], ids=["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("classes", [2, 10, 1000, 30000])
def test_a_gap_keeps_a_softmax_strict_in_float32(op, classes):
    """At the gap no float32 Softmax makes a tie, however many classes are nearly equal; far below it one does."""
    name = type(op).__name__
    run = runtime.session(model([node(name, ["x"], ["y"], axis=1)], ["N", "K"]).SerializeToString())
    rng, gap = np.random.default_rng(classes), softmax_gap(op, classes)

    def strict(gap: float) -> bool:
        top = (rng.uniform(-30, 30, (64, 1)) * rng.choice([0, 1], (64, 1))).astype(np.float32)
        down = np.where(rng.random((64, classes)) < 0.5, 1, 1 + rng.random((64, classes)) * rng.choice([1e-2, 1, 1e7]))
        z = np.nextafter((top - gap * down).astype(np.float32), np.float32(-np.inf))
        z[:, :1] = top
        found = (run(z)[0], op(torch.from_numpy(z)).numpy())
        return all(bool((y[:, 1:] < y[:, :1]).all()) for y in found)

    assert all(strict(gap) for _ in range(4))
    assert not strict(gap * 2.0**-9)


def headed(*tail, seed=3):
    d = nets.Drawing(seed)
    x = d(torch.nn.ReLU(), d(torch.nn.Linear(12, 16), d.input(12)))
    x = d(torch.nn.Linear(16, 5), x)
    for op, *values in tail:
        x = d(op, x, *(d.constant(torch.tensor(v)) for v in values))
    return d.finish(x, shapes=((None, 5),))


def broken(network):
    images = torch.rand(40, 12, generator=torch.Generator().manual_seed(1))
    labels = torch.from_numpy(deployed(network)(images.numpy()).argmax(1))
    return attack(network, deployed(network), images, labels, np.arange(40), LinfBall(Fraction(1, 12)), PGD())


TAILS = {
    "saturated softmax": ((networks.ops.Mul(), 300.0), (torch.nn.Softmax(1),)),
    "clip": ((networks.ops.Clip(-0.4, 0.4),),),
    "tiny scale": ((networks.ops.Mul(), 1e-30), (torch.nn.Tanh(),), (networks.ops.Mul(), 1e-12)),
    "tanh": ((networks.ops.Mul(), 40.0), (torch.nn.Tanh(),)),
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_what_saturates_behind_the_logits_hides_no_counterexample(tail):
    """The attack climbs on the logits: it breaks what it breaks without the tail, wherever the file's label does change."""
    plain, tailed = broken(headed()), broken(headed(*tail))
    assert plain.broken.sum() >= 8
    # A tail may make ties, in which the first class wins: points of such samples are no counterexamples.
    assert tailed.broken.sum() >= 0.6 * plain.broken.sum()
    assert not tailed.blind.any()
    network = headed(*tail)
    assert AttackObjective.logits(network).nodes == AttackObjective.logits(headed()).nodes


def test_an_attack_that_saw_no_gradient_says_so():
    found = broken(headed((networks.ops.Sign(),), (torch.nn.Linear(5, 5),)))
    assert found.blind.sum() > 0
    assert (found.blind <= ~found.broken).all()
