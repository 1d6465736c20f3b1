"""Operators that are put together of others, in all their forms, against ONNX Runtime with no parity in between."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pipeline.errors import InputRejected
from tests.onnx.bare import bounded, imported, same
from tests.onnx.files import model, node, weights

IMAGE = ["batch", 4, 5, 3]
NORMS = ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum", "ReduceProd")
IN_ONE_KERNEL = ("ReduceLogSumExp", "ReduceLogSum", "ReduceProd")


def one(op: str, shape: list, *arrays: np.ndarray, opset: int = 17, **attributes: object) -> onnx.ModelProto:
    constants = {f"c{i}": a for i, a in enumerate(arrays)}
    return model([node(op, ["x", *constants], ["y"], **attributes)], shape, constants, opset=opset)


def samples(shape: list, seed: int = 0) -> np.ndarray:
    return weights(3, *shape[1:], seed=seed)


def reduction(op: str, axes: list[int], keep: int, opset: int) -> onnx.ModelProto:
    """Behind an Abs where the operator takes a logarithm."""
    first = [node("Abs", ["x"], ["h"])] if op == "ReduceLogSum" else [node("Identity", ["x"], ["h"])]
    as_input = opset >= 18 or (op == "ReduceSum" and opset >= 13)
    tensors = {"a": np.array(axes, np.int64)} if as_input else {}
    attributes = {"keepdims": keep} if as_input else {"keepdims": keep, "axes": axes}
    return model([*first, node(op, ["h", *tensors], ["y"], **attributes)], IMAGE, tensors, opset=opset)


@pytest.mark.parametrize("op", NORMS)
@pytest.mark.parametrize("axes", [[1], [-1], [2, 3], [-2, 1], [1, 2, 3]])
def test_reductions(op: str, axes: list[int]) -> None:
    for keep, opset in itertools.product((0, 1), (9, 13, 18, 20)):
        same(reduction(op, axes, keep, opset), samples(IMAGE), tolerance=1e-4)
    bounded(reduction(op, axes, 1, 17), samples(IMAGE) + np.float32(3), 0.05, refused=op if op in IN_ONE_KERNEL else "")


@pytest.mark.parametrize("op", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_norms_of_boxes_around_zero(op: str) -> None:
    bounded(reduction(op, [1], 1, 17), np.zeros((2, 4, 5, 3), np.float32), 0.1)
    bounded(reduction(op, [1], 1, 17), weights(2, 4, 5, 3) * np.float32(1e-3), 2e-3)


@pytest.mark.parametrize("op", [*NORMS, "ReduceSum", "ReduceMax"])
@pytest.mark.parametrize("axes", [[0], [-4], [-4, 1]])
def test_a_reduction_over_the_batch_is_refused_by_name(op: str, axes: list[int]) -> None:
    from pipeline.rules import require

    with pytest.raises(InputRejected, match=rf"(?s){op}.*batch"):
        require(imported(reduction(op, axes, 1, 17)))


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
@pytest.mark.parametrize("mode", ["DCR", "CRD", ""])
def test_depth_to_space(opset: int, mode: str) -> None:
    shape = ["batch", 18, 2, 3]
    proto = one("DepthToSpace", shape, opset=opset, blocksize=3, **({"mode": mode} if mode else {}))
    same(proto, samples(shape))
    bounded(proto, samples(shape), 0.1)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_space_to_depth(block: int) -> None:
    shape = ["batch", 2, 6, 12]
    same(one("SpaceToDepth", shape, blocksize=block), samples(shape))


SIDES = {"strides": ([1, 1], [2, 3], [3, 2]), "dilations": ([1, 1], [2, 1]), "kernel": ((3, 3), (2, 4), (1, 3))}


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions(auto: str, group: int) -> None:
    x = samples(IMAGE)
    for strides, dilations, kernel in itertools.product(*SIDES.values()):
        tensors = (weights(4, 3, *kernel), weights(3 * group, seed=1))
        attributes: dict = {"strides": strides, "dilations": dilations, "group": group, "auto_pad": auto}
        same(one("ConvTranspose", IMAGE, *tensors, **attributes), x)
        attributes["output_padding"] = [s - 1 for s in strides]
        same(one("ConvTranspose", IMAGE, *tensors[:1], **attributes), x)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "NOTSET"])
def test_output_shapes_of_transposed_convolutions(auto: str) -> None:
    x = samples(IMAGE)
    for height, width in itertools.product((9, 10, 11, 12), (5, 6, 7, 8)):
        attributes: dict = {"strides": [2, 2], "output_shape": [height, width], "auto_pad": auto}
        proto = one("ConvTranspose", IMAGE, weights(4, 3, 3, 3), weights(3, seed=1), **attributes)
        same(proto, x)
    bounded(proto, x, 0.05)


@pytest.mark.parametrize("rank", [1, 3])
def test_transposed_convolutions_along_one_and_three_axes(rank: int) -> None:
    shape = ["batch", 2, *[3, 4, 2][:rank]]
    proto = one("ConvTranspose", shape, weights(2, 3, *[2, 3, 2][:rank]), strides=[2] * rank, auto_pad="SAME_LOWER")
    same(proto, samples(shape))


def test_a_transposed_convolution_that_is_only_bias_at_its_end_is_refused_by_name() -> None:
    with pytest.raises(InputRejected, match=r"ConvTranspose .*output_shape"):
        imported(one("ConvTranspose", IMAGE, weights(4, 3, 3, 3), strides=[2, 2], output_shape=[25, 7]))


@pytest.mark.parametrize(("opset", "per"), [(18, "group"), (20, "group"), (21, "channel"), (23, "channel")])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_normalisation(opset: int, per: str, groups: int) -> None:
    shape = ["batch", 4, 3, 5]
    count = groups if per == "group" else 4
    tensors = (weights(count), weights(count, seed=1))
    proto = one("GroupNormalization", shape, *tensors, opset=opset, num_groups=groups, epsilon=1e-3)
    network = same(proto, samples(shape))
    assert any(isinstance(m, nn.GroupNorm) for m in network.modules())
    bounded(proto, samples(shape), 0.05)


@pytest.mark.parametrize("axis", [-1, 2, 1, -2])
def test_root_mean_square_normalisation(axis: int) -> None:
    shape = ["batch", 3, 4, 5]
    for scale in (weights(*shape[axis:]), weights(1, seed=1), weights(5, seed=2)):
        proto = one("RMSNormalization", shape, scale, opset=23, axis=axis, epsilon=1e-4)
        same(proto, samples(shape))
    bounded(proto, samples(shape), 0.05)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("settings", [{}, {"alpha": 0.7, "beta": 0.5, "bias": 2.0}])
def test_local_response_normalisation(size: int, settings: dict) -> None:
    same(one("LRN", IMAGE, size=size, **settings), samples(IMAGE))
    bounded(one("LRN", IMAGE, size=size, **settings), samples(IMAGE), 0.05, refused="LRN")


@pytest.mark.parametrize(
    ("op", "opset", "attributes", "kernel"),
    [
        ("Mish", 18, {}, "Mish"),
        ("Mish", 23, {}, "Mish"),
        ("Atan", 7, {}, "Atan"),
        ("Atan", 22, {}, "Atan"),
        ("HardSwish", 14, {}, ""),
        ("HardSwish", 22, {}, ""),
        ("Celu", 17, {"alpha": 2.5}, "Celu"),
        ("Shrink", 9, {"bias": 0.5, "lambd": 0.5}, ""),
        ("Shrink", 17, {"bias": 0.0, "lambd": 0.0}, ""),
        ("ThresholdedRelu", 10, {"alpha": 0.0}, ""),
    ],
)
def test_activations(op: str, opset: int, attributes: dict, kernel: str) -> None:
    proto = one(op, IMAGE, opset=opset, **attributes)
    same(proto, 3 * samples(IMAGE))
    bounded(proto, 3 * samples(IMAGE), 0.3, refused=kernel)


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("ThresholdedRelu", {}, "jumps at alpha = 1"),
        ("ThresholdedRelu", {"alpha": -0.5}, "jumps at alpha = -0.5"),
        ("Shrink", {}, "jumps"),
        ("Shrink", {"bias": 0.5, "lambd": -0.5}, "jumps"),
    ],
)
def test_functions_that_jump_are_refused_by_name(op: str, attributes: dict, message: str) -> None:
    with pytest.raises(InputRejected, match=rf"{op} \(1: .*{message}"):
        imported(one(op, IMAGE, **attributes))


@pytest.mark.parametrize(
    ("shape", "pads"),
    [
        (["batch", 2, 5], [0, 0, 2, 0, 0, 3]),
        (["batch", 2, 4, 3], [0, 0, 1, 2, 0, 0, 0, 3]),
        (["batch", 2, 4, 3], [0, 0, 0, 1, 0, 0, 0, 1]),
        (["batch", 2, 3, 2, 4], [0, 0, 1, 1, 2, 0, 0, 0, 2, 1]),
    ],
)
def test_padding_that_wraps(shape: list, pads: list) -> None:
    proto = one("Pad", shape, np.array(pads), opset=19, mode="wrap")
    same(proto, samples(shape))
    bounded(proto, samples(shape), 0.1)


@pytest.mark.parametrize("pads", [[0, 0, 5, 0, 0, 0], [0, 3, 0, 0, 0, 0], [0, 0, 1, 0, 0, 9]])
def test_padding_that_wraps_more_than_once_is_refused_by_name(pads: list) -> None:
    with pytest.raises(InputRejected, match=r"Pad \(1: it wraps more than once"):
        imported(one("Pad", ["batch", 2, 4], np.array(pads), opset=19, mode="wrap"))


def test_padding_that_wraps_and_cuts_off_is_refused_by_name() -> None:
    with pytest.raises(InputRejected, match=r"Pad \(1: it wraps a vector, or cuts off"):
        imported(one("Pad", ["batch", 2, 4], np.array([0, 0, 1, 0, 0, -1]), opset=19, mode="wrap"))


def test_a_token_tiled_for_every_sample() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], end=1),
        node("Concat", ["s", "rest"], ["r"], axis=0),
        node("Tile", ["token", "r"], ["t"]),
        node("Concat", ["t", "x"], ["y"], axis=1),
    ]
    tensors = {"rest": np.array([1, 2]), "token": weights(1, 1, 3)}
    same(model(nodes, ["batch", 2, 6], tensors, opset=18), samples(["batch", 2, 6]))


def test_a_comparison_with_another_form_fails() -> None:
    """The comparison can fail: columns first are other entries."""
    shape = ["batch", 8, 2, 3]
    other = imported(one("DepthToSpace", shape, blocksize=2, mode="CRD"))
    x = torch.from_numpy(samples(shape))
    assert not torch.equal(other(x), imported(one("DepthToSpace", shape, blocksize=2))(x))
