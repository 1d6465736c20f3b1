"""What ONNX Runtime makes of transformers: sums in the kernel of a LayerNormalization, Gelu and SiLU, parts in other places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch

from pipeline.bounds.ibp import IntervalWalk
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.onnx import executed, importer, runtime
from pipeline.onnx.executed import optimised, unaccounted
from pipeline.onnx.kernels import OPERATORS
from tests.onnx import files
from tests.onnx.files import node
from tests.onnx.test_executed import gelu_in_parts, tampered

FLOAT32 = Outward(deployed=True, kernels=dict.fromkeys(OPERATORS, (2.5e-7, 2e-7)))
SIZES = ("n", 5, 8)
W, B = files.weights(8, 8), files.weights(8, seed=1)
NORM = {"g": files.weights(8, seed=2), "h": files.weights(8, seed=3)}
LAYER = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["l"])]
PARTS = {"r": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
GRAPHS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], str]] = {
    "a residual sum, normalised": (
        [*LAYER, node("Add", ["x", "l"], ["s"]), node("LayerNormalization", ["s", "g", "h"], ["y"], axis=-1)],
        {"w": W, "b": B, **NORM},
        "com.microsoft.SkipLayerNormalization",
    ),
    "the layer first": (
        [*LAYER, node("Add", ["l", "x"], ["s"]), node("LayerNormalization", ["s", "g", "h"], ["y"], axis=2, epsilon=1e-6)],
        {"w": W, "b": B, **NORM},
        "com.microsoft.SkipLayerNormalization",
    ),
    "without a layer": (
        [
            node("Relu", ["x"], ["l"]),
            node("Add", ["x", "l"], ["s"]),
            node("LayerNormalization", ["s", "g", "h"], ["y"], axis=-1),
        ],
        NORM,
        "com.microsoft.SkipLayerNormalization",
    ),
    "SiLU": (
        [*LAYER, node("Sigmoid", ["l"], ["s"]), node("Mul", ["s", "l"], ["y"])],
        {"w": W, "b": B},
        "com.microsoft.QuickGelu",
    ),
    "Gelu": ([*LAYER, node("Gelu", ["l"], ["y"])], {"w": W, "b": B}, "com.microsoft.BiasGelu"),
    "Gelu in parts": ([node("Relu", ["x"], ["l"]), *gelu_in_parts("l")], PARTS, "com.microsoft.Gelu"),
    "Gelu in parts of a layer": (
        [*LAYER, *gelu_in_parts("l")],
        {"w": W, "b": B, **PARTS},
        "com.microsoft.BiasGelu",
    ),
    "a mean of what is permuted": (
        [
            node("LayerNormalization", ["x", "g", "h"], ["q"], axis=-1),
            node("Transpose", ["q"], ["t"], perm=[0, 2, 1]),
            node("ReduceMean", ["t", "last"], ["a"], keepdims=1),
            node("Flatten", ["a"], ["f"]),
            node("MatMul", ["f", "w"], ["y"]),
        ],
        {"w": W, "last": np.array([2]), **NORM},
        "ReduceMean",
    ),
    "parts of what is permuted": (
        [
            node("Relu", ["x"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
            node("Split", ["t", "halves"], ["p", "q"], axis=1),
            node("Sub", ["p", "q"], ["d"]),
            node("Transpose", ["d"], ["u"], perm=[0, 2, 1]),
            node("MatMul", ["u", "w"], ["y"]),
        ],
        {"halves": np.array([4, 4]), "w": files.weights(4, 3)},
        "Split",
    ),
    "query, key and value": (
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Reshape", ["m", "thirds"], ["t"]),
            node("Transpose", ["t"], ["p"], perm=[2, 0, 3, 1, 4]),
            *(node("Slice", ["p", f"i{i}", f"i{i + 1}", "i0"], [f"a{i}"]) for i in range(3)),
            *(node("Squeeze", [f"a{i}", "i0"], [f"q{i}"]) for i in range(3)),
            node("Sub", ["q0", "q1"], ["d"]),
            node("Mul", ["d", "q2"], ["y"]),
        ],
        {"w": files.weights(8, 12), "thirds": np.array([0, 5, 3, 2, 2]), **{f"i{i}": np.array([i]) for i in range(4)}},
        "Split",
    ),
}  # fmt: skip


def proto_of(name: str) -> onnx.ModelProto:
    nodes, constants, _ = GRAPHS[name]
    return files.model(nodes, SIZES, constants, opset=20 if name in ("Gelu", "a mean of what is permuted") else 17)


def worst(proto: onnx.ModelProto, sizes: Sequence[float], account: Outward = FLOAT32) -> float:
    """The largest share of its radius at which a value executed at any level of optimisation lies from its center."""
    network = importer.convert(importer.normalise(proto), proto).in_float64()
    shares = []
    for size in sizes:
        x = np.random.default_rng(0).standard_normal((64, *SIZES[1:])) * size
        x = (x + 30 * size * np.random.default_rng(1).standard_normal((64, 5, 1))).astype(np.float32)
        point = torch.from_numpy(x).double()
        out = IntervalWalk(network, account).boxes([Interval(point, torch.zeros_like(point))])[-1]
        for level in runtime.LEVELS:
            y = torch.from_numpy(runtime.session(proto.SerializeToString(), level=level)(x)[0]).double()
            shares.append(float(((y - out.center).abs() / out.radius).nan_to_num(0).max()))
    return max(shares)


@pytest.mark.parametrize("name", GRAPHS)
def test_it_is_accounted_for_and_stays_inside_the_bounds(name):
    proto = proto_of(name)
    ran = optimised(proto.SerializeToString(), provider="cpu", level="all")
    assert GRAPHS[name][2] in {op.type for op in ran.graph.operators}
    assert unaccounted(proto, ran, ["y"]) is None
    assert worst(proto, (1e-3, 1.0, 1e3)) <= 1


@pytest.mark.parametrize("name", GRAPHS)
def test_whatever_is_changed_in_it_is_found(name):
    proto = proto_of(name)
    ran = optimised(proto.SerializeToString(), provider="cpu", level="all")
    tried = [
        (what, unaccounted(proto, executed.Executed(other, "", "cpu", "all"), ["y"]))
        for what, other in tampered(ran.model)
        if not what.startswith(("MatMul", "Gemm", "FusedMatMul"))
    ]
    assert len(tried) >= ("Gelu" not in name and name != "SiLU")
    assert [what for what, problem in tried if problem is None] == []


def test_another_epsilon_axis_or_order_is_found():
    nodes, constants, _ = GRAPHS["a residual sum, normalised"]
    ran = optimised(proto_of("a residual sum, normalised").SerializeToString(), provider="cpu", level="all")
    for norm in ({"axis": -1, "epsilon": 2e-5}, {"axis": -2, "epsilon": 1e-5}):
        weights = {k: np.tile(v, (5, 1)) if norm["axis"] == -2 and k in "gh" else v for k, v in constants.items()}
        other = files.model([*nodes[:-1], node("LayerNormalization", ["s", "g", "h"], ["y"], **norm)], SIZES, weights)
        assert unaccounted(other, ran, ["y"]) is not None
    difference = [*nodes[:2], node("Sub", ["x", "l"], ["s"]), nodes[-1]]
    assert unaccounted(files.model(difference, SIZES, constants), ran, ["y"]) is not None


@pytest.mark.parametrize(("name", "axes"), [("query, key and value", (1, 3, 4)), ("parts of what is permuted", (0, 1))])
def test_a_split_along_another_axis_is_found(name, axes):
    proto = proto_of(name)
    ran = optimised(proto.SerializeToString(), provider="cpu", level="all").model
    (split,) = (n for n in ran.graph.node if n.op_type == "Split")
    for axis in axes:
        split.attribute[0].i = axis
        assert unaccounted(proto, executed.Executed(ran, "", "cpu", "all"), ["y"]) is not None


def test_a_part_whose_transpose_is_left_out_is_found():
    """Of a square, where both have one shape."""
    first = node("Gather", ["x", "i"], ["p"], axis=1)
    turned = [first, node("Transpose", ["p"], ["t"], perm=[0, 1, 3, 2]), node("Relu", ["t"], ["y"])]
    split = [node("Split", ["x", "ones"], ["p", "q", "r", "s"], axis=1), node("Relu", ["p"], ["y"])]
    ran = executed.Executed(files.model(split, ["n", 4, 4, 4], {"ones": np.ones(4, np.int64)}), "", "cpu", "all")
    index = {"i": np.array([0])}
    assert unaccounted(files.model([first, node("Relu", ["p"], ["y"])], ["n", 4, 4, 4], index), ran, ["y"]) is None
    assert unaccounted(files.model(turned, ["n", 4, 4, 4], index), ran, ["y"]) is not None


@pytest.mark.parametrize(("axes", "accounted_for"), [(None, True), ([1], False)])
def test_a_sum_that_broadcasts_is_not_that_of_the_kernel(axes, accounted_for):
    before = [node("Relu", ["x"], ["r"])] if axes is None else [node("ReduceMax", ["x"], ["r"], axes=axes)]
    last = [node("Add", ["x", "r"], ["s"]), node("LayerNormalization", ["s", "g", "h"], ["y"], axis=-1)]
    made = files.model([*before, *last], SIZES, NORM)
    fused = onnx.ModelProto()
    fused.CopyFrom(made)
    del fused.graph.node[-2:]
    kernel = onnx.helper.make_node(
        "SkipLayerNormalization", ["x", "r", "g", "h"], ["y"], domain="com.microsoft", epsilon=1e-5
    )
    fused.graph.node.append(kernel)
    fused.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    assert (unaccounted(made, executed.Executed(fused, "", "cpu", "all"), ["y"]) is None) == accounted_for


@pytest.mark.parametrize("name", ["SiLU", "Gelu in parts", "Gelu in parts of a layer"])
def test_a_product_with_another_operand_or_constant_is_found(name):
    nodes, constants, _ = GRAPHS[name]
    ran = optimised(proto_of(name).SerializeToString(), provider="cpu", level="all")
    others = [[*nodes[:-1], node(nodes[-1].op_type, ["x" if v == "l" else v for v in nodes[-1].input], ["y"])]]
    if name == "SiLU":
        others.append([*nodes[:-2], node("Sigmoid", ["x"], ["s"]), nodes[-1]])
    else:
        before_last = node("Mul", ["x", "f"], ["g"])
        others = [[before_last if n.output[0] == "g" else n for n in nodes]]
    changed = [constants | {name: value * np.float32(1.25)} for name, value in constants.items()]
    for other, numbers in [*((o, constants) for o in others), *((nodes, c) for c in changed)]:
        assert unaccounted(files.model(other, SIZES, numbers), ran, ["y"]) is not None


def test_values_leave_bounds_that_charge_nothing_for_a_kernel():
    """Else nothing above would show that the errors are needed."""
    free = Outward(deployed=True, kernels=dict.fromkeys(OPERATORS, (0.0, 0.0)))
    assert max(worst(proto_of(name), (1.0,), free) for name in ("SiLU", "Gelu", "Gelu in parts of a layer")) > 1
