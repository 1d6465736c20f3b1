"""Parity node by node: a wrong import is found behind the largest logit, and no honest model is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pipeline.core import ops
from pipeline.core.network import Network
from pipeline.errors import InputRejected
from pipeline.onnx import parity
from pipeline.onnx.node_by_node import NodeByNode
from tests.onnx.files import FIXTURES, load, model, node, saved, session, weights
from tests.onnx.honest import HONEST

LOUD = np.float32([0, 0, -1e9])
"""One logit beside which nothing shows that is measured against the largest."""


def behind(nodes: list[onnx.NodeProto], size: int, constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A classifier of images whose features, ``h``, are what some nodes make of ``x``."""
    tail = [node("Flatten", ["h"], ["f"]), node("Gemm", ["f", "wide", "loud"], ["y"], name="logits")]
    return model([*nodes, *tail], ["n", 3, 8, 8], {**(constants or {}), "wide": weights(size, 3), "loud": LOUD})


def nth(network: Network, kind: type[nn.Module]) -> Any:
    """The first operator of a kind."""
    return next(m for m in network.graph.modules() if isinstance(m, kind))


def _floored(network: Network) -> None:
    """Nearest entries rounded down where the file says up."""
    for gather in (m for m in network.graph.modules() if isinstance(m, ops.Gather)):
        gather.indices.copy_((gather.indices - 1).clamp_min(0))


def _shift(network: Network) -> None:
    conv = nth(network, nn.Conv2d)
    conv.padding_mode, conv._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]


def _set(kind: type[nn.Module], **settings: Any) -> Callable[[Network], None]:
    def wrong(network: Network) -> None:
        for name, value in settings.items():
            assert getattr(nth(network, kind), name) != value
            setattr(nth(network, kind), name, value)

    return wrong


WEIGHTS = {"w": weights(3, 3, 3, 3), "s": weights(3), "b": weights(3), "m": weights(3), "v": weights(3) ** 2 + 0.1}
BN = node("BatchNormalization", ["x", "s", "b", "m", "v"], ["h"], name="it")
UP = {"mode": "nearest", "nearest_mode": "ceil", "coordinate_transformation_mode": "asymmetric"}
WRONG: dict[str, tuple[list[onnx.NodeProto], int, dict[str, np.ndarray], Callable[[Network], None]]] = {
    "floor for ceil": (
        [node("Resize", ["x", "", "scales"], ["h"], name="it", **UP)],
        3 * 144,
        {"scales": np.float32([1, 1, 1.5, 1.5])},
        _floored,
    ),
    "padding": ([node("Conv", ["x", "w"], ["h"], name="it", pads=[1] * 4)], 192, WEIGHTS, _shift),
    "padding counted": (
        [node("AveragePool", ["x"], ["h"], name="it", kernel_shape=[3, 3], pads=[1] * 4)],
        192,
        {},
        _set(nn.AvgPool2d, count_include_pad=True),
    ),
    "axis of a Softmax": ([node("Softmax", ["x"], ["h"], name="it", axis=1)], 192, {}, _set(nn.Softmax, dim=2)),
    "axis of a mean": (
        [node("ReduceMean", ["x"], ["h"], name="it", axes=[2], keepdims=1)],
        24,
        {},
        _set(ops.ReduceMean, dims=(3,)),
    ),
    "order of axes": (
        [node("Transpose", ["x"], ["h"], name="it", perm=[0, 1, 3, 2])],
        192,
        {},
        _set(ops.Transpose, perm=(0, 1, 2, 3)),
    ),
    "epsilon": ([BN], 192, WEIGHTS, _set(nn.BatchNorm2d, eps=1e-4)),
    "slope": ([node("LeakyRelu", ["x"], ["h"], name="it")], 192, {}, _set(nn.LeakyReLU, negative_slope=0.01)),
    "upper end": (
        [node("Clip", ["x", "", "top"], ["h"], name="it")],
        192,
        {"top": np.float32(0.5)},
        _set(ops.Clip, high=0.500001),
    ),
    "rounding": ([node("Floor", ["x"], ["g"], name="it"), node("Relu", ["g"], ["h"])], 192, {}, lambda n: None),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_read_wrongly_is_named_however_loud_another_logit_is(case: str, tmp_path: Path) -> None:
    nodes, size, constants, wrong = WRONG[case]
    path = saved(tmp_path, behind(nodes, size, constants))
    imported = load(path)
    xs = parity.points(imported.network)
    assert parity.compare(session(path), imported.model, imported.network, xs).holds
    wrong(imported.network)
    if case == "rounding":  # another class altogether
        step = next(s for s in imported.network.plan().steps if isinstance(s.op, ops.Floor))
        imported.network.graph.add_module(step.name, ops.Ceil())
    measured = parity.compare(session(path), imported.model, imported.network, xs)
    assert measured.max_abs_difference <= 1e-4 * measured.scale, "nothing shows in the outputs"
    with pytest.raises(InputRejected, match=f"first node that differs is {nodes[0].op_type} 'it'"):
        parity.require(measured)


@pytest.mark.parametrize("batch", ["n", 1])
def test_a_network_that_mixes_samples_is_found_beside_a_file_run_one_by_one(batch: str | int, tmp_path: Path) -> None:
    proto = model(
        [node("Sub", ["x", "c"], ["h"], name="it"), node("Relu", ["h"], ["y"])], [batch, 4], {"c": weights(4)}
    )
    imported = load(saved(tmp_path, proto))

    class Mixing(nn.Module):
        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return x - c + (x - x.mean(0))

    first = imported.network.plan().steps[0].name
    imported.network.graph.add_module(first, Mixing())
    found = NodeByNode(imported.model, imported.network).run(parity.points(imported.network), batch=True, together=True)
    assert found.difference is not None
    assert found.difference.node == first


@pytest.mark.parametrize("broken", [torch.float64, torch.float32], ids=["by itself", "between others"])
def test_an_operator_that_does_not_run_is_named_as_the_file_names_it(
    broken: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever torch says of it: bounds walk it alone in float64, outputs are measured through all of them in float32."""

    def product(self: ops.MatMul, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if x.dtype == broken:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied \x1b[2J")
        return x @ w

    proto = model(
        [node("MatMul", ["x", "w"], ["h"], name="stacked\x1b"), node("Relu", ["h"], ["y"])],
        ["n", 2, 3, 4],
        {"w": weights(2, 4, 5)},
    )
    monkeypatch.setattr(ops.MatMul, "forward", product)
    if broken == torch.float64:  # without a bound, so that it is computed
        monkeypatch.setattr("pipeline.onnx.node_by_node.rule_for", lambda op: None)
    with pytest.raises(InputRejected) as refused:
        load(saved(tmp_path, proto))
    message = str(refused.value)
    assert r"runs it; MatMul 'stacked\x1b' does not, on values of shape [" in message
    assert ", 2, 3, 4] and shape [2, 4, 5]. Write that node in another form" in message
    assert "mat1" not in message
    assert "\x1b" not in message


def test_a_comparison_that_breaks_off_names_what_it_was_to_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **how: object) -> None:
        raise RuntimeError("expected scalar type Float")

    path = saved(tmp_path, model([node("Relu", ["x"], ["y"], name="last")], ["n", 4]))
    monkeypatch.setattr(NodeByNode, "run", broken)
    with pytest.raises(InputRejected, match=r"up to Relu 'last' do not \(RuntimeError\)\. Export the model"):
        load(path)


def test_a_batch_laid_aside_is_compared_too() -> None:
    """In PyTorch's attention most values stand with the batch in another axis than the network has it."""
    imported = load(FIXTURES / "transformer_dynamo_20_dynamic.onnx")
    steps = len(imported.network.plan().steps)
    assert imported.parity.nodes > 0.8 * steps
    nth(imported.network, nn.Softmax).dim = 1
    difference = parity.compare(
        session(FIXTURES / "transformer_dynamo_20_dynamic.onnx"),
        imported.model,
        imported.network,
        parity.points(imported.network),
    )
    assert "Softmax" in (difference.difference or "")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("case", HONEST)
def test_no_honest_model_is_refused(case: str, scale: float, tmp_path: Path) -> None:
    """Inputs small, large, all equal and on ties; a refusal here would be of somebody's honest file."""
    imported = load(saved(tmp_path, HONEST[case](scale)))
    shape = [int(d) for d in imported.network.inputs[0].shape[1:] if d is not None]
    sizes = (1e-4, 1.0, 30.0, 1e4)
    xs = [weights(12, *shape, seed=i) * size for i, size in enumerate(sizes)]
    xs += [np.zeros((1, *shape)), np.full((1, *shape), 3.0), np.full((1, *shape), 0.125)]
    points = np.concatenate(xs).astype(np.float32)
    agreement = NodeByNode(imported.model, imported.network).run([points], batch=True, together=True)
    assert agreement.difference is None, agreement.difference.describe(imported.network)
    assert agreement.points == len(points)
    assert agreement.nodes
