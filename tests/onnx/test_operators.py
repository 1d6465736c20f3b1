"""Every lowering computes what ONNX Runtime computes: ``load`` refuses a file otherwise, so that loading is the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from pipeline.bounds.ibp import IntervalWalk
from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.errors import InputRejected
from pipeline.rules import unsupported
from tests.onnx.files import load, model, node, saved, weights
from tests.onnx.files import session as file_session

IMAGE = ["batch", 4, 7, 7]
FLAT = ["batch", 6]
INT = np.int64


def conv(**attributes: object) -> onnx.ModelProto:
    return model(
        [node("Conv", ["x", "w", "b"], ["y"], **attributes)], IMAGE, {"w": weights(6, 4, 3, 3), "b": weights(6)}
    )


def pool(kind: str, **attributes: object) -> onnx.ModelProto:
    # Negative values beside the padding tell -inf from zero, and who is counted.
    nodes = [node("Sub", ["x", "c"], ["s"]), node(kind, ["s"], ["y"], **attributes)]
    return model(nodes, IMAGE, {"c": np.float32(3.0)[None]}, opset=19 if "ceil_mode" in attributes else 17)


def gemm(c: np.ndarray | None = None, **attributes: object) -> onnx.ModelProto:
    w = weights(3, 6) if attributes.get("transB") else weights(6, 3)
    constants = {"w": w} if c is None else {"w": w, "c": c}
    return model([node("Gemm", ["x", *constants], ["y"], **attributes)], FLAT, constants)


def one(op: str, shape: list, *arrays: np.ndarray, opset: int = 17, **attributes: object) -> onnx.ModelProto:
    constants = {f"c{i}": a for i, a in enumerate(arrays)}
    return model([node(op, ["x", *constants], ["y"], **attributes)], shape, constants, opset=opset)


def clip(low: str, high: str, opset: int = 17) -> onnx.ModelProto:
    constants = {n: np.array(v, np.float32) for n, v in (("low", -0.2), ("zero", 0.0), ("six", 6.0), ("high", 0.4))}
    used = {n: a for n, a in constants.items() if n in (low, high)}
    return model([node("Clip", ["x", low, high], ["y"])], FLAT, used, opset=opset)


def i64(*values: int) -> np.ndarray:
    return np.array(values, INT)


def bn(shape: list, opset: int = 17) -> onnx.ModelProto:
    tensors = {"s": weights(4), "b": weights(4, seed=1), "m": weights(4, seed=2), "v": np.abs(weights(4, seed=3)) + 0.1}
    return model([node("BatchNormalization", ["x", *tensors], ["y"], epsilon=1e-3)], shape, tensors, opset=opset)


def quantized(scale: np.ndarray, zero: np.ndarray, opset: int = 17, **attributes: int) -> onnx.ModelProto:
    """A convolution of int8 weights between grids of the input's and its own, saturated on both sides."""
    nodes = [
        node("Mul", ["x", "much"], ["h"]),
        node("QuantizeLinear", ["h", "s", "z"], ["q"], **attributes),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], **attributes),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        node("Conv", ["d", "wd"], ["c"]),
        node("QuantizeLinear", ["c", "cs"], ["r"]),
        node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2]),
        node("DequantizeLinear", ["m", "cs"], ["y"]),
    ]
    tensors = {
        "much": np.float32(4.0)[None],
        "s": scale,
        "z": zero,
        "w": np.random.default_rng(0).integers(-127, 128, (6, 4, 3, 3)).astype(np.int8),
        "ws": np.full(6, 0.013, np.float32),
        "wz": np.zeros(6, np.int8),
        "cs": np.float32(0.11),
    }
    return model(nodes, IMAGE, tensors, opset=opset)


PER_TENSOR = (np.array(0.037, np.float32), np.array(7, np.uint8))
PER_CHANNEL = (np.array([0.031, 0.057, 0.011, 0.083], np.float32), np.array([0, 3, -5, 1], np.int8))

CASES: dict[str, onnx.ModelProto] = {
    "conv strided, dilated": conv(strides=[2, 1], dilations=[1, 2], pads=[1, 2, 1, 2]),
    "conv padded on one side": conv(pads=[0, 0, 1, 2]),
    "conv same upper": conv(auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": conv(auto_pad="SAME_LOWER", strides=[3, 2]),
    "conv valid": conv(auto_pad="VALID"),
    "conv grouped": one("Conv", IMAGE, weights(6, 2, 3, 3), group=2),
    "conv 1d": one("Conv", ["batch", 4, 9], weights(3, 4, 3), weights(3), pads=[1, 0]),
    "conv 3d": one("Conv", ["batch", 2, 4, 4, 4], weights(3, 2, 2, 2, 2), pads=[1, 0, 0, 0, 0, 1]),
    "conv transposed": one(
        "ConvTranspose", IMAGE, weights(4, 3, 3, 3), strides=[2, 2], output_padding=[1, 0], pads=[1] * 4
    ),
    "conv bias as an Add": model(
        [node("Conv", ["x", "w"], ["h"]), node("Add", ["b", "h"], ["y"])],
        IMAGE,
        {"w": weights(6, 4, 3, 3), "b": weights(1, 6, 1, 1)},
    ),
    "max pool": pool("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "max pool dilated": pool("MaxPool", kernel_shape=[2, 2], dilations=[2, 1]),
    "max pool padded at the end": pool("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    "max pool padded at the start": pool("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]),
    "max pool padded at the end by much": pool("MaxPool", kernel_shape=[3, 3], strides=[1, 1], pads=[0, 0, 2, 2]),
    "max pool padded by more than half": pool("MaxPool", kernel_shape=[3, 3], strides=[1, 1], pads=[2, 2, 2, 2]),
    "max pool same": pool("MaxPool", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "max pool rounded up": pool("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "max pool rounded up, stride 3": pool(
        "MaxPool", kernel_shape=[3, 3], strides=[3, 3], pads=[1, 0, 1, 0], ceil_mode=1
    ),
    "average pool": pool("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average pool with pads": pool("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    "average pool on one side": pool("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    "average pool on one side with pads": pool(
        "AveragePool", kernel_shape=[3, 2], pads=[0, 1, 2, 0], count_include_pad=1
    ),
    "average pool rounded up": pool("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "average pool rounded up with pads": pool(
        "AveragePool", kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 0, 0], ceil_mode=1, count_include_pad=1
    ),
    "average pool same": pool("AveragePool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    "global pools": model(
        [
            node("GlobalMaxPool", ["x"], ["a"]),
            node("GlobalAveragePool", ["x"], ["b"]),
            node("Concat", ["a", "b"], ["y"], axis=-3),
        ],
        IMAGE,
    ),
    "gemm": gemm(weights(3)),
    "gemm, weight transposed": gemm(weights(1, 3), transB=1),
    "gemm scaled": gemm(weights(3), alpha=0.5, beta=2.0),
    "gemm without bias": gemm(alpha=1.5),
    "gemm, one number as bias": gemm(np.array(0.3, np.float32)),
    "gemm, bias switched off": gemm(weights(3), beta=0.0),
    "gemm, both computed": model([node("Gemm", ["x", "x"], ["y"], transB=1, alpha=0.5)], [3, 4]),
    "gemm, input transposed": model(
        [node("Gemm", ["x", "w", "c"], ["y"], transA=1)], [4, 2], {"w": weights(4, 3), "c": weights(2, 3)}
    ),
    "matmul rank 3 with bias": model(
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["b", "h"], ["y"])],
        ["batch", 2, 5],
        {"w": weights(5, 3), "b": weights(3)},
    ),
    "matmul rank 1": model([node("MatMul", ["x", "w"], ["y"])], [5], {"w": weights(5, 3)}),
    "matmul from the left": model(
        [node("MatMul", ["w", "x"], ["h"]), node("Add", ["h", "b"], ["y"])],
        [5, 1],
        {"w": weights(3, 5), "b": weights(3, 1)},
    ),
    "matmul stacked": model([node("MatMul", ["x", "w"], ["y"])], ["batch", 2, 3, 5], {"w": weights(2, 5, 3)}),
    "matmul of two values": model(
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["y"])], ["batch", 3, 4]
    ),
    "matmul from the left of samples turned": model(
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0]),
            node("MatMul", ["w", "t"], ["h"]),
            node("Transpose", ["h"], ["y"], perm=[1, 0]),
        ],
        FLAT,
        {"w": weights(3, 6)},
    ),
    "attention with its heads in the batch": model(
        [
            node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
            node("MatMul", ["x", "t"], ["h"]),
            node("Reshape", ["h", "fold"], ["i"]),
            node("Softmax", ["i"], ["j"], axis=1),
            node("Reshape", ["j", "back"], ["k"]),
            node("MatMul", ["k", "x"], ["y"]),
        ],
        ["batch", 2, 3, 4],
        {"fold": i64(-1, 3), "back": i64(-1, 2, 3, 3)},
    ),
    "quotients": model(
        [
            node("Mul", ["x", "x"], ["h"]),
            node("Add", ["h", "one"], ["i"]),
            node("Div", ["x", "i"], ["j"]),
            node("Div", ["one", "i"], ["k"]),
            node("Add", ["j", "k"], ["y"]),
        ],
        FLAT,
        {"one": np.float32(1.0)[None]},
    ),
    "batch norm 1d": bn(["batch", 4]),
    "batch norm 2d, opset 7": bn(["batch", 4, 3, 3], opset=7),
    "batch norm 3d": bn(["batch", 4, 2, 2, 2], opset=14),
    "layer norm": one("LayerNormalization", ["batch", 3, 6], weights(6), weights(6, seed=1), axis=-1),
    "instance norm": one("InstanceNormalization", IMAGE, weights(4), weights(4, seed=1)),
    "leaky relu": one("LeakyRelu", FLAT, alpha=0.3),
    "prelu per channel": one("PRelu", IMAGE, weights(4, 1, 1)),
    "prelu per entry": one("PRelu", IMAGE, weights(4, 7, 7)),
    "elu": one("Elu", FLAT, alpha=0.7),
    "selu": one("Selu", FLAT),
    "celu": one("Celu", FLAT),
    "softplus": one("Softplus", FLAT),
    "softsign": one("Softsign", FLAT),
    "hard sigmoid": one("HardSigmoid", FLAT),
    "hard sigmoid as torch has it": one("HardSigmoid", FLAT, alpha=1 / 6),
    "hard swish": one("HardSwish", FLAT),
    "gelu": one("Gelu", FLAT, opset=20),
    "gelu by tanh": one("Gelu", FLAT, opset=20, approximate="tanh"),
    "softmax of old": one("Softmax", ["batch", 3, 4], opset=11, axis=1),
    "softmax along channels": one("Softmax", IMAGE, axis=1),
    "log softmax": one("LogSoftmax", FLAT),
    "local response": one("LRN", IMAGE, size=3),
    "clip": clip("low", "high"),
    "clip to relu": clip("zero", ""),
    "clip to relu6": clip("zero", "six", opset=13),
    "clip above only": clip("", "high"),
    "clip of old": one("Clip", FLAT, opset=7, min=-0.5, max=0.5),
    "clip by a computed end": model(
        [node("ReduceMean", ["x"], ["m"], keepdims=0), node("Clip", ["x", "", "m"], ["y"])], [2, 3]
    ),
    "sum of three": model([node("Sum", ["x", "x", "c"], ["y"])], FLAT, {"c": weights(6)}),
    "min, max": model(
        [node("Min", ["x", "c"], ["h"]), node("Max", ["h", "d"], ["y"])], FLAT, {"c": weights(6), "d": weights(1)}
    ),
    "arithmetic": model(
        [
            node("Sub", ["x", "c"], ["a"]),
            node("Div", ["a", "d"], ["b"]),
            node("Mul", ["b", "x"], ["e"]),
            node("Neg", ["e"], ["f"]),
            node("Pow", ["f", "two"], ["g"]),
            node("Sqrt", ["g"], ["h"]),
            node("Exp", ["h"], ["i"]),
            node("Reciprocal", ["i"], ["j"]),
            node("Erf", ["j"], ["k"]),
            node("Abs", ["k"], ["l"]),
            node("Sin", ["l"], ["m"]),
            node("Cos", ["m"], ["y"]),
        ],
        FLAT,
        {"c": weights(6), "d": np.float32(0.25)[None], "two": np.float32(2.0)[None]},
    ),
    "comparisons": model(
        [
            node("Greater", ["x", "c"], ["a"]),
            node("LessOrEqual", ["x", "d"], ["b"]),
            node("And", ["a", "b"], ["e"]),
            node("Not", ["e"], ["f"]),
            node("Where", ["f", "x", "c"], ["y"]),
        ],
        FLAT,
        {"c": weights(6), "d": weights(6, seed=1) + 1},
    ),
    "steps": model(
        [node("Mul", ["x", "c"], ["h"]), node("Floor", ["h"], ["i"]), node("Sign", ["i"], ["y"])],
        FLAT,
        {"c": weights(6)},
    ),
    "cast": model(
        [node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE), node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)], FLAT
    ),
    "cast to the same type": model([node("Relu", ["x"], ["h"]), node("Cast", ["h"], ["y"], to=1)], FLAT),
    "cast to whole numbers": model(
        [
            node("Mul", ["x", "c"], ["h"]),
            node("Cast", ["h"], ["i"], to=TensorProto.INT64),
            node("Cast", ["i"], ["y"], to=1),
        ],
        FLAT,
        {"c": weights(6) * 5},
    ),
    "transpose by default": model([node("Transpose", ["x"], ["y"])], [2, 3, 4]),
    "flatten from the back": one("Flatten", IMAGE, axis=-3),
    "flatten deep": one("Flatten", [1, 1, 4, 4], axis=2),
    "squeeze, unsqueeze": model(
        [node("Unsqueeze", ["x", "a"], ["h"]), node("Squeeze", ["h", "b"], ["y"])], FLAT, {"a": i64(-1, 1), "b": i64(3)}
    ),
    "squeeze whatever is one": one("Squeeze", [1, 1, 6]),
    "slice backwards": one("Slice", FLAT, i64(5), i64(-(2**62)), i64(1), i64(-2)),
    "slice by default": one("Slice", [4, 6], i64(1, 0), i64(2**62, -1)),
    "split": model(
        [node("Split", ["x", "s"], ["a", "b"], axis=1), node("Concat", ["b", "a", "b"], ["y"], axis=1)],
        FLAT,
        {"s": i64(2, 4)},
    ),
    "split evenly, opset 18": model(
        [node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), node("Sub", ["b", "a"], ["y"])], FLAT, opset=18
    ),
    "gather": one("Gather", FLAT, np.array([[0, -1], [2, 2]], INT), axis=1),
    "gather one": one("Gather", IMAGE, np.array(1, INT), axis=1),
    "pad": one("Pad", IMAGE, i64(0, 0, 1, 0, 0, 1, 0, 2), np.array(0.7, np.float32)),
    "pad of some axes, opset 18": one("Pad", IMAGE, i64(1, 2), np.array(0.7, np.float32), i64(-1), opset=18),
    "pad by cutting": one("Pad", IMAGE, i64(0, 0, -1, 0, 0, 0, 0, -2)),
    "pad reflecting": one("Pad", IMAGE, i64(0, 0, 1, 2, 0, 0, 2, 0), mode="reflect"),
    "pad repeating": one("Pad", IMAGE, i64(0, 0, 1, 2, 0, 0, 2, 0), mode="edge"),
    "pad repeating along one axis": one("Pad", IMAGE, i64(0, 0, 0, 2, 0, 0, 0, 1), mode="edge"),
    "expand": one("Expand", ["batch", 1, 3], i64(1, 4, 3)),
    "tile": one("Tile", FLAT, i64(1, 2)),
    "reduce sum": one("ReduceSum", IMAGE, i64(1, -1), keepdims=0),
    "reduce mean, opset 18": one("ReduceMean", IMAGE, i64(2, 3), opset=18),
    "reduce max": one("ReduceMax", IMAGE, axes=[1]),
    "reduce min": one("ReduceMin", IMAGE, axes=[2, 3], keepdims=0),
    "argmax": model([node("ArgMax", ["x"], ["i"], axis=1), node("Cast", ["i"], ["y"], to=1)], FLAT),
    "resize nearest": model(
        [
            node(
                "Resize",
                ["x", "", "s"],
                ["y"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        IMAGE,
        {"s": np.array([1, 1, 2, 3], np.float32)},
    ),
    "resize linear": model(
        [node("Resize", ["x", "", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="align_corners")],
        [2, 4, 7, 7],
        {"s": i64(2, 4, 10, 12)},
    ),
    "reshape computed from the shape": model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["b"]),
            node("Concat", ["b", "rest"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["y"]),
        ],
        ["batch", 2, 6],
        {"zero": i64(0), "rest": i64(12)},
    ),
    "a token beside every sample": model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["b"]),
            node("Concat", ["b", "rest"], ["t"], axis=0),
            node("Expand", ["token", "t"], ["e"]),
            node("Concat", ["e", "x"], ["y"], axis=1),
        ],
        ["batch", 2, 6],
        {"zero": i64(0), "rest": i64(1, 6), "token": weights(1, 1, 6)},
    ),
    "quantized": quantized(*PER_TENSOR),
    "quantized by channel": quantized(*PER_CHANNEL, axis=1),
    "quantized, opset 10": one("QuantizeLinear", FLAT, *PER_TENSOR, opset=10),
    "dropout and identity": model(
        [
            node("Dropout", ["x"], ["h"]),
            node("Identity", ["h"], ["i"]),
            node("Relu", ["i"], ["j"]),
            node("Identity", ["j"], ["y"]),
        ],
        FLAT,
    ),
    "in double precision": model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        FLAT,
        {"w": weights(6, 3, dtype=np.float64)},
        dtype=TensorProto.DOUBLE,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_lowered_operator_computes_what_onnx_runtime_computes(case: str, tmp_path: Path) -> None:
    try:
        imported = load(saved(tmp_path, CASES[case]))
    except InputRejected as refusal:
        if case == "average pool rounded up with pads" and "AveragePool" in str(refusal):
            pytest.skip("this ONNX Runtime divides a window that hangs over the edge by another count, and is refused")
        raise
    assert imported.parity.holds
    assert imported.parity.left_out == 0 or case in ("steps", "cast to whole numbers") or "quantized" in case
    if CASES[case].graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        assert imported.network.inputs[0].shape[0] is None
        assert len(imported.parity.batch_sizes) == 2
    assert_vocabulary(imported.network.graph)


def assert_vocabulary(graph: torch.fx.GraphModule) -> None:
    """Placeholders, constants, modules of torch.nn or ops.py under their node's name with values alone as arguments."""
    for n in graph.graph.nodes:
        assert n.op in ("placeholder", "get_attr", "call_module", "output")
        if n.op == "get_attr":
            assert isinstance(getattr(graph, n.target), torch.Tensor)
        if n.op == "call_module":
            module = graph.get_submodule(n.target)
            in_vocabulary = type(module).__module__.startswith(("torch.nn.modules.", f"{ops.__name__}."))
            assert in_vocabulary, type(module)
            assert n.target == n.name
            assert not n.kwargs
            assert all(isinstance(a, torch.fx.Node) for a in n.args)
            assert not getattr(module, "inplace", False)
            assert not module.training
            assert not isinstance(module, nn.Identity)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("clip to relu", nn.ReLU),
        ("clip to relu6", ops.Clip),
        ("matmul rank 3 with bias", nn.Linear),
        ("conv bias as an Add", nn.Conv2d),
        ("max pool padded at the start", nn.MaxPool2d),
        ("gemm, weight transposed", nn.Linear),
        ("dropout and identity", nn.ReLU),
    ],
)
def test_an_operator_becomes_the_plainest_module(case: str, kind: type, tmp_path: Path) -> None:
    graph = load(saved(tmp_path, CASES[case])).network.graph
    kinds = [type(graph.get_submodule(n.target)) for n in graph.graph.nodes if n.op == "call_module"]
    assert kind in kinds
    assert ops.Add not in kinds


@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        ("matmul of two values", {ops.Transpose, ops.MatrixProduct}),
        ("matmul from the left of samples turned", {nn.Linear, ops.Transpose}),
        ("attention with its heads in the batch", {ops.Transpose, ops.MatrixProduct, ops.Reshape, nn.Softmax}),
        ("quotients", {ops.Product, ops.Add, ops.Quotient}),
    ],
)
def test_samples_stay_beside_each_other_so_that_bounds_can_cross(case: str, kinds: set[type], tmp_path: Path) -> None:
    network = load(saved(tmp_path, CASES[case])).network
    assert {type(step.op) for step in network.plan().steps} == kinds
    assert unsupported(network) == ()


def test_quantized_weights_are_constants_that_never_train(tmp_path: Path) -> None:
    network = load(saved(tmp_path, CASES["quantized"])).network
    assert not network.trainable()
    assert "computed by DequantizeLinear from other constants" in network.provenance.frozen.values()
    assert unsupported(network) == ()


def test_bounds_of_a_quantized_file_hold_what_onnx_runtime_computes_in_real_arithmetic_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, CASES["quantized"])
    network, session = load(path).network.in_float64(), file_session(path)
    center = torch.rand(2, 4, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    box = Interval(center, torch.full_like(center, 0.02))
    (bounds,) = IntervalWalk(network, Outward(deployed=False)).boxes([box])[-1:]
    assert isinstance(bounds, Interval)
    for seed in range(20):
        weight = torch.rand(center.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        point = (center + 0.02 * (weight.sign() if seed % 2 else weight)).float()
        (y,) = session(point.numpy(), outputs=["y"])
        # A step of the output's grid and a little: float32 may fall on the other side of a tie, which nothing promises.
        assert float((torch.from_numpy(y).double() - bounds.center).abs().sub(bounds.radius).max()) <= 0.111
    with pytest.raises(InputRejected, match="QuantizeLinear"):
        IntervalWalk(network, Outward(deployed=True)).boxes([box])


def test_samples_that_are_mixed_are_named(tmp_path: Path) -> None:
    mixed = model([node("Reshape", ["x", "s"], ["y"])], ["batch", 2, 6], {"s": i64(-1, 6)})
    with pytest.raises(
        InputRejected, match=r"samples of a batch .* an output.* has its samples in axis 0, or not alone"
    ):
        load(saved(tmp_path, mixed))


@pytest.mark.parametrize("opset", range(7, 24))
def test_every_opset_from_7_to_23_imports(opset: int, tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("BatchNormalization", ["a", "s", "s", "s", "v"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2]),
        node("Flatten", ["d"], ["e"]),
        node("Gemm", ["e", "g", "h"], ["i"]),
        node("Softmax", ["i"], ["y"], axis=1),
    ]
    constants = {
        "w": weights(2, 1, 3, 3),
        "s": weights(2),
        "v": np.ones(2, np.float32),
        "g": weights(8, 3),
        "h": weights(3),
    }
    assert load(saved(tmp_path, model(nodes, [1, 1, 5, 5], constants, opset=opset))).parity.holds
