"""What ONNX Runtime executes is accounted for, or refused by name; what is accounted for stays inside the bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.bounds.ibp import IntervalWalk
from pipeline.commands import guarantee
from pipeline.commands.subject import open_model
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.errors import InputRejected
from pipeline.onnx import executed, importer, kernel_table, model_file, runtime
from pipeline.onnx.executed import optimised, pools, products, require, transposes, unaccounted
from pipeline.onnx.executed.graphs import Graph
from pipeline.onnx.executed.transposes import transposes_behind
from pipeline.onnx.kernel_sweep import PATTERNS, Measured
from pipeline.settings import Settings
from tests.onnx import files, fusions

FLOAT32 = Outward(deployed=True)
image = ("n", 4, 6, 6)
W, B = files.weights(8, 4, 3, 3), files.weights(8, seed=1)
NORM = {
    "s": files.weights(8, seed=2),
    "t": files.weights(8, seed=3),
    "m": files.weights(8, seed=4),
    "v": np.abs(files.weights(8, seed=5)) + np.float32(0.1),
}
PADS = np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
node = files.node
conv = node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1])


def gelu_in_parts(x: str) -> list[onnx.NodeProto]:
    return [
        node("Div", [x, "r"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"], ["f"]),
        node("Mul", [x, "f"], ["g"]),
        node("Mul", ["g", "half"], ["y"]),
    ]


PARTS = {"r": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}


def explained(proto: onnx.ModelProto, level: runtime.Level = "all") -> str | None:
    return unaccounted(
        proto, optimised(proto.SerializeToString(), provider="cpu", level=level), [o.name for o in proto.graph.output]
    )


ACCOUNTED = {
    "Conv+BN+Relu": (
        [conv, node("BatchNormalization", ["c", "s", "t", "m", "v"], ["d"]), node("Relu", ["d"], ["y"])],
        {"w": W, "b": B, **NORM},
    ),
    "BN alone": (
        [conv, node("Relu", ["c"], ["r"]), node("BatchNormalization", ["r", "s", "t", "m", "v"], ["y"])],
        {"w": W, "b": B, **NORM},
    ),
    "BN of what others read": (
        [
            conv,
            node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
            node("BatchNormalization", ["p", "s", "t", "m", "v"], ["d"]),
            node("Relu", ["d"], ["e"]),
            node("Conv", ["e", "w2"], ["f"]),
            node("Concat", ["p", "f"], ["y"], axis=1),
        ],
        {"w": W, "b": B, "w2": files.weights(8, 8, 1, 1), **NORM},
    ),
    "channels last, but for convolutions": (
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
            node("Add", ["t", "b"], ["a"]),
            node("Sigmoid", ["a"], ["s"]),
            node("Mul", ["a", "s"], ["m"]),
            node("Transpose", ["m"], ["u"], perm=[0, 3, 1, 2]),
            node("Conv", ["u", "w2"], ["d"]),
            node("Transpose", ["d"], ["v"], perm=[0, 2, 3, 1]),
            node("Sub", ["v", "b"], ["y"]),
        ],
        {"w": W, "b": B, "w2": files.weights(8, 8, 1, 1)},
    ),
    "SiLU": ([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])], {}),
    "Gelu in parts": (gelu_in_parts("x"), PARTS),
    "Gelu in other parts": (
        [
            node("Div", ["x", "r"], ["d"]),
            node("Erf", ["d"], ["e"]),
            node("Add", ["one", "e"], ["f"]),
            node("Mul", ["half", "x"], ["g"]),
            node("Mul", ["g", "f"], ["y"]),
        ],
        PARTS,
    ),
    "Gelu in parts behind an addition": (
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["a"]), *gelu_in_parts("a")],
        PARTS | {"w": files.weights(6, 6), "b": files.weights(6)},
    ),
    "Conv+Add+Relu": (
        [
            conv,
            node("Conv", ["x", "w2"], ["z"]),
            node("Add", ["z", "c"], ["a"]),
            node("Relu", ["a"], ["y"]),
        ],
        {"w": W, "b": B, "w2": files.weights(8, 4, 1, 1)},
    ),
    "Pad+Conv": ([node("Pad", ["x", "p"], ["q"]), node("Conv", ["q", "w"], ["y"])], {"w": W, "p": PADS}),
    "Relu+Pad+MaxPool": (
        [
            node("Relu", ["x"], ["r"]),
            node("Pad", ["r", "p"], ["q"]),
            node("MaxPool", ["q"], ["y"], kernel_shape=[2, 2], pads=[0, 0, 0, 0]),
        ],
        {"p": PADS},
    ),
    "Pad+AveragePool": (
        [node("Pad", ["x", "p"], ["q"]), node("AveragePool", ["q"], ["y"], kernel_shape=[2, 2], pads=[0, 0, 0, 0])],
        {"p": PADS},
    ),
    "Conv+Clip": (
        [conv, node("Relu", ["c"], ["r"]), node("Clip", ["r", "l", "h"], ["y"])],
        {"w": W, "b": B, "l": np.float32(-1), "h": np.float32(6)},
    ),
    "ConvTranspose+BN": (
        [node("ConvTranspose", ["x", "w"], ["c"]), node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"])],
        {"w": files.weights(4, 8, 3, 3), **NORM},
    ),
    "MatMul of rows": (
        [
            node("Reshape", ["x", "k"], ["r"]),
            node("MatMul", ["r", "w"], ["h"]),
            node("Add", ["h", "b"], ["a"]),
            node("Relu", ["a"], ["y"]),
        ],
        {"k": np.asarray([0, 24, 6], np.int64), "w": files.weights(6, 5), "b": files.weights(5)},
    ),
    "scale before a product of two computed factors": (
        [
            node("Mul", ["x", "k"], ["a"]),
            node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
            node("MatMul", ["a", "t"], ["y"]),
        ],
        {"k": np.float32(0.125)},
    ),
    "scale behind a product of two computed factors": (
        [
            node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
            node("MatMul", ["x", "t"], ["a"]),
            node("Div", ["a", "k"], ["y"]),
        ],
        {"k": np.float32(3)},
    ),
    "Concat of what is turned": (
        [
            node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
            node("Relu", ["x"], ["r"]),
            node("Transpose", ["r"], ["u"], perm=[0, 2, 3, 1]),
            node("Concat", ["t", "u"], ["z"], axis=2),
            node("Relu", ["z"], ["v"]),
            node("Transpose", ["v"], ["y"], perm=[0, 3, 1, 2]),
        ],
        {},
    ),
}


@pytest.mark.parametrize("name", ACCOUNTED)
def test_what_is_ordinary_is_accounted_for_at_every_level(name):
    nodes, constants = ACCOUNTED[name]
    proto = files.model(nodes, image, constants)
    for level in runtime.LEVELS:
        assert explained(proto, level) is None, level


@pytest.mark.parametrize("path", files.IMPORTABLE, ids=lambda p: p.stem)
def test_exports_are_accounted_for(path):
    if not path.stem.startswith("transformer"):
        file = model_file.read(path)
        ran = optimised(file, provider="cpu", level="all")
        assert unaccounted(file.model, ran, [o.name for o in file.model.graph.output]) is None


FUSED = {
    "SiLU": "QuickGelu",
    "Gelu in parts": "Gelu",
    "Gelu in other parts": "Gelu",
    "Gelu in parts behind an addition": "BiasGelu",
}


@pytest.mark.parametrize("name", [*FUSED, "Gelu behind an addition"])
def test_a_kernel_that_holds_the_files_own_is_charged_by_its_own_measurement(name, tmp_path, monkeypatch):
    """The larger error of the two; and a file with another function is not taken for it."""
    nodes, constants = ACCOUNTED.get(
        name, ([node("Gelu", ["a"], ["y"])], {"w": files.weights(6, 6), "b": files.weights(6)})
    )
    if name not in ACCOUNTED:
        nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["a"]), *nodes]
    tail = [node("Flatten", ["y"], ["l"]), node("MatMul", ["l", "last"], ["z"])]
    proto = files.model(
        [*nodes, *tail],
        image,
        constants | {"last": files.weights(144, 3)},
        outputs=("z",),
        opset=17 if name in FUSED else 20,
    )
    subject = open_model(model_file.read(files.saved(tmp_path, proto)), Settings(data="none"))
    kind = "com.microsoft." + FUSED.get(name, "BiasGelu")
    assert kind in {op.type for op in subject.executed.graph.operators}
    executed.require(subject.file, subject.executed, ["z"])
    own = "Sigmoid" if name == "SiLU" else "Gelu" if name not in FUSED else "Erf"
    (held,) = [inner for inner, of in guarantee.INSIDE[kind] if of == own]
    table = kernel_table.KernelTable(kernel_table.here(), {})
    entry = kernels_measured()
    table = replace(table, operators={own: entry, held: replace(entry, absolute=3 * entry.absolute)})
    monkeypatch.setattr(kernel_table, "load", lambda: (table, None))
    monkeypatch.setattr(kernel_table, "spot_check", lambda *a: None)
    found = guarantee.kernels_of(subject, Settings(data="none"))
    assert found.errors[own] == (3 * entry.absolute, entry.relative)
    assert held in found.build.errors
    assert f"{held}: the {own} inside it" in found.assumptions[0]


def kernels_measured() -> Measured:
    return Measured(1e-6, 1e-7, PATTERNS, PATTERNS, 1, 0, 1.0, (), "", 0.0)


REFUSED = {
    "Pad+MaxPool": (
        [node("Pad", ["x", "p"], ["q"]), node("MaxPool", ["q"], ["y"], kernel_shape=[2, 2], pads=[0, 0, 0, 0])],
        {"p": PADS},
        "it pads with minus infinity where the file pads with zero",
        "off",
    ),
    "LayerNorm in parts": (
        [
            node("ReduceMean", ["x"], ["m"], axes=[-1]),
            node("Sub", ["x", "m"], ["d"]),
            node("Pow", ["d", "two"], ["e"]),
            node("ReduceMean", ["e"], ["v"], axes=[-1]),
            node("Add", ["v", "eps"], ["f"]),
            node("Sqrt", ["f"], ["g"]),
            node("Div", ["d", "g"], ["h"]),
            node("Mul", ["h", "w"], ["i"]),
            node("Add", ["i", "b"], ["y"]),
        ],
        {"two": np.float32(2), "eps": np.float32(1e-5), "w": files.weights(6), "b": files.weights(6)},
        "LayerNormalization",
        "off",
    ),
    "a transposed matrix times a vector": (
        [node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), node("MatMul", ["t", "v"], ["y"])],
        {"v": files.weights(6)},
        "it transposes a matrix beside a vector",
        "basic",
    ),
    "QuickGelu of another factor": (
        [node("Mul", ["x", "k"], ["a"]), node("Sigmoid", ["a"], ["s"]), node("Mul", ["x", "s"], ["y"])],
        {"k": np.float32(1.702)},
        "the error of its kernel was measured for an alpha of 1",
        "basic",
    ),
    "Gelu by another root": (gelu_in_parts("x"), PARTS | {"r": np.float32(1.41421)}, "Gelu", "basic"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_another_function_or_kernel_is_refused_by_name(name, tmp_path):
    nodes, constants, message, remedy = REFUSED[name]
    file = model_file.read(files.saved(tmp_path, files.model(nodes, image, constants)))
    with pytest.raises(InputRejected, match=message) as refusal:
        require(file, optimised(file, provider="cpu", level="all"), ["y"])
    assert f"--runtime-optimization {remedy}`" in str(refusal.value)
    require(file, optimised(file, provider="cpu", level=remedy), ["y"])


def tampered(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graph with one thing changed: a weight, an attribute, the operands of an operator, an operator left out."""

    def copy() -> onnx.ModelProto:
        other = onnx.ModelProto()
        other.CopyFrom(model)
        return other

    for i, tensor in enumerate(model.graph.initializer):
        array = numpy_helper.to_array(tensor).copy()
        if not array.size or not array.any():
            continue
        at = np.unravel_index(np.abs(array).argmax(), array.shape)
        array[at] = array[at] * 2 if array.dtype.kind == "i" else array[at] * (1 + 2.0**-10)
        other = copy()
        other.graph.initializer[i].CopyFrom(numpy_helper.from_array(array, tensor.name))
        yield f"{tensor.name} changed", other
    for i, own in enumerate(model.graph.node):
        for j, attribute in enumerate(own.attribute):
            other = copy()
            changed = other.graph.node[i].attribute[j]
            if attribute.type == onnx.AttributeProto.INTS and len(attribute.ints):
                changed.ints[0] += 1
            elif attribute.type == onnx.AttributeProto.FLOAT:
                changed.f = attribute.f * 1.5 + 0.75
            elif attribute.name == "activation":
                changed.s = b"Tanh"
            else:
                continue
            yield f"{own.op_type}.{attribute.name} changed", other
        if len(own.input) > 1 and own.op_type in ("Sub", "Div"):
            other = copy()
            other.graph.node[i].input[:] = list(own.input)[::-1]
            yield f"{own.op_type} turned round", other
        if own.op_type in ("Relu", "Clip", "MaxPool", "Neg"):
            other = copy()
            for reader in other.graph.node:
                reader.input[:] = [own.input[0] if v == own.output[0] else v for v in reader.input]
            if own.output[0] not in {o.name for o in model.graph.output}:
                yield f"{own.op_type} left out", other


NEUTRAL = ("momentum", "channels", "alpha", "beta", "kernel_shape", "storage_order")
"""Attributes that change nothing: of training, of a value's name, of a Gemm without what they multiply; said by weights too."""


def test_whatever_is_changed_in_an_executed_graph_is_found():
    tried = 0
    for seed in range(6):
        proto = fusions.drawn(seed)
        for level in ("basic", "all"):
            try:
                ran = optimised(proto.SerializeToString(), provider="cpu", level=level)
            except InputRejected:
                continue
            outputs = [o.name for o in proto.graph.output]
            if unaccounted(proto, ran, outputs) is not None:
                continue
            for what, other in tampered(ran.model):
                if what.split(".")[-1].split(" ")[0] in NEUTRAL and "Pool" not in what and "Leaky" not in what:
                    continue
                tried += 1
                changed = executed.Executed(other, "", "cpu", level)
                assert unaccounted(proto, changed, outputs) is not None, f"seed {seed}, {level}: {what}"
    assert tried > 60


def test_a_transpose_that_is_left_out_is_found():
    def of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
        return files.model(nodes, ["n", 4, 4, 4])

    proto = of(node("Transpose", ["x"], ["t"], perm=[0, 2, 1, 3]), node("Relu", ["t"], ["y"]))
    without = of(node("Relu", ["x"], ["y"]))
    for other, accounted_for in ((proto, True), (without, False)):
        ran = executed.Executed(other, "", "cpu", "all")
        assert (unaccounted(proto, ran, ["y"]) is None) == accounted_for


def test_transposes_move_behind_what_works_entry_by_entry():
    """The same numbers to the bit; another perm, or constants that are not turned back, give others."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        node("Add", ["t", "row"], ["a"]),
        node("Sub", ["plane", "a"], ["b"]),
        node("Clip", ["b", "l", "h"], ["c"]),
        node("PRelu", ["c", "row"], ["d"]),
        node("Relu", ["t"], ["r"]),
        node("Mul", ["d", "r"], ["e"]),
        node("MatMul", ["e", "w"], ["y"]),
    ]
    constants = {
        "row": files.weights(4),
        "plane": files.weights(6, 6, 4, seed=1),
        "l": np.float32(-1),
        "h": np.float32(2),
        "w": files.weights(4, 3, seed=2),
    }
    proto = files.model(nodes, image, constants)
    moved = transposes_behind(proto)
    onnx.checker.check_model(moved, full_check=True)
    (last,) = (n for n in moved.graph.node if n.op_type == "MatMul")
    assert {n.op_type for n in moved.graph.node if last.input[0] in n.output} == {"Transpose"}
    assert [n.op_type for n in moved.graph.node if "x" in n.input] == ["Transpose", "Add", "Relu"]
    x = np.random.default_rng(0).standard_normal((3, *image[1:])).astype(np.float32)
    there, here = (runtime.session(m.SerializeToString(), level="off")(x)[0] for m in (proto, moved))
    assert np.array_equal(there, here)


def test_the_rank_of_what_is_transposed_is_known_where_onnx_infers_no_shape():
    """A Reshape of opset 9 to a shape that is computed; a product that might be one by a vector is refused."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s"], ["u"], starts=[0], ends=[2]),
        node("Concat", ["u", "rest"], ["v"], axis=0),
        node("Reshape", ["x", "v"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["t", "w"], ["y"]),
    ]
    proto = files.model(nodes, image, {"rest": np.asarray([-1]), "w": files.weights(4, 5)}, opset=9)
    assert not Graph(proto).types["t"].HasField("shape"), "the test can fail"
    assert explained(proto) is None


def test_transposes_that_follow_one_another_become_one_or_none():
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        node("Relu", ["t"], ["r"]),
        node("Transpose", ["r"], ["u"], perm=[0, 3, 1, 2]),
        node("Transpose", ["u"], ["y"], perm=[0, 1, 3, 2]),
        node("Transpose", ["r"], ["z"], perm=[0, 1, 3, 2]),
    ]
    proto = files.model(nodes, image, {}, outputs=("u", "y", "z"))
    moved = transposes_behind(proto)
    assert [n.op_type for n in moved.graph.node if n.output[0] in "uyz"] == ["Identity", "Transpose", "Transpose"]
    x = np.random.default_rng(0).standard_normal((3, *image[1:])).astype(np.float32)
    for there, here in zip(
        *(runtime.session(m.SerializeToString(), level="off")(x) for m in (proto, moved)), strict=True
    ):
        assert np.array_equal(there, here)


def test_a_constant_that_is_not_turned_back_is_found(monkeypatch):
    nodes, _ = ACCOUNTED["channels last, but for convolutions"]
    square = {"w": files.weights(6, 4, 3, 3), "b": files.weights(6), "w2": files.weights(6, 6, 1, 1)}
    proto = files.model(nodes, image, square)
    assert explained(proto) is None
    monkeypatch.setattr(transposes, "_turned_back", lambda constant, perm: constant)
    assert explained(proto) is not None


def test_a_concat_along_another_axis_is_found():
    """Turned arrays are joined along the axis that the turned one is; of equal sizes, any other gives the same shape."""

    def of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
        return files.model(nodes, ["n", 4, 4, 4])

    turn = {"perm": [0, 2, 1, 3]}
    made = of(
        node("Transpose", ["x"], ["t"], **turn), node("Concat", ["t", "t"], ["c"], axis=1), node("Relu", ["c"], ["y"])
    )
    for axis in (1, 2, 3, -2):
        joined = node("Concat", ["x", "x"], ["j"], axis=axis)
        other = of(joined, node("Transpose", ["j"], ["c"], **turn), node("Relu", ["c"], ["y"]))
        assert (unaccounted(made, executed.Executed(other, "", "cpu", "all"), ["y"]) is None) == (axis in (2, -2))


def judged(
    seed: int, points: int = 400, pictures: Sequence[Callable[[fusions.Sketch], None]] = fusions.PICTURES
) -> tuple[int, int]:
    """How many levels of a random graph were compared, and how many refused; asserts that nothing leaves the bounds."""
    proto = fusions.drawn(seed, pictures=pictures)
    compared = refused = 0
    try:
        network = importer.convert(importer.normalise(proto), proto).in_float64()
    except InputRejected:
        return 0, 0
    rng = np.random.default_rng(seed)
    size = [*fusions.START]
    center = rng.standard_normal((1, *size)) * 2.0 ** rng.choice([0.0, 0.0, 20.0, -60.0])
    radius = np.abs(center).max() * rng.choice([0.0, 1e-3, 0.3])
    x = center + radius * np.where(
        rng.random((points, *size)) < 0.5, rng.choice([-1, 1], (points, *size)), rng.random((points, *size))
    )
    x = np.clip(x, center - radius, center + radius).astype(np.float32)
    box = Interval(
        torch.from_numpy(center),
        torch.full((1, *size), float(radius) * (1 + 2.0**-20) + np.abs(center).max() * 2.0**-20).double(),
    )
    try:
        (out,) = IntervalWalk(network, FLOAT32).boxes([box])[-1:]
    except InputRejected:
        return 0, 4
    content, outputs = proto.SerializeToString(), [o.name for o in proto.graph.output]
    for level in runtime.LEVELS:
        try:
            problem = unaccounted(proto, optimised(content, provider="cpu", level=level), outputs)
        except InputRejected:  # ONNX Runtime joins padding until it refuses the pooling that it made itself
            problem = "cannot be loaded"
        if problem is not None:
            refused += 1
            continue
        y = torch.from_numpy(runtime.session(content, level=level)(x)[0]).double().reshape(points, -1)
        excess = ((y - out.center.reshape(1, -1)).abs() - out.radius.reshape(1, -1)).detach()
        # What the bounds do not hold (an overflow) nothing certifies.
        assert not bool((excess > 0).any()), (
            f"seed {seed} at {level}: outside by {float(excess.nan_to_num(0).max()):.3g}"
        )
        compared += 1
    return compared, refused


@pytest.mark.parametrize("before", [2.0**-120, 2.0**-60, 0.7, 2.0**60])
@pytest.mark.parametrize("size", [2.0**-70, 1.0, 2.0**30, 2.0**68])
@pytest.mark.parametrize("undone", [True, False])
def test_a_number_moved_through_a_product_of_two_computed_values_stays_inside(before, undone, size):
    """Where it is multiplied in behind the sums, these and their operands are larger by it, or lost where they are smaller."""
    nodes = [
        node("Mul", ["x", "k"], ["a"]),
        node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["a", "t"], ["m"]),
        node("Mul", ["m", "l"], ["y"]),
    ]
    made = files.model(nodes, image, {"k": np.float32(before), "l": np.float32(1 / before if undone else 1)})
    network, content = importer.convert(importer.normalise(made), made).in_float64(), made.SerializeToString()
    x = (np.random.default_rng(0).standard_normal((200, 4, 6, 6)) * size).astype(np.float32)
    point = torch.from_numpy(x).double()
    out = IntervalWalk(network, FLOAT32).boxes([Interval(point, torch.zeros_like(point))])[-1]
    for level in runtime.LEVELS:
        if explained(made, level) is not None:
            assert abs(np.log2(before)) * 2 > products.RANGE
            continue
        y = torch.from_numpy(runtime.session(content, level=level)(x)[0]).double()
        assert not bool(((y - out.center).abs() > out.radius).any()), level


def test_random_fusions_stay_inside_or_are_refused():
    figures = np.array([judged(seed) for seed in range(24)])
    compared, refused = figures.sum(0)
    assert compared > 45, "most graphs must be accounted for, else nothing was tested"
    assert refused > 0, "some graphs must be refused, else nothing was"


@pytest.mark.slow
def test_many_random_fusions():
    figures = np.array([judged(seed, 4000) for seed in range(1000, 3000)])
    assert figures.sum(0)[0] > 4000


def test_a_table_without_the_condition_on_padding_is_found_out(monkeypatch):
    monkeypatch.setattr(pools, "nonnegative", lambda graph, value: True)
    with pytest.raises(AssertionError, match="outside by"):
        [judged(seed, pictures=[fusions.pool]) for seed in range(60)]


def test_the_digest_is_of_what_is_computed():
    proto = files.model(*(ACCOUNTED["Conv+BN+Relu"][0], image, ACCOUNTED["Conv+BN+Relu"][1]))
    content = proto.SerializeToString()
    first = optimised(content, provider="cpu", level="all").execution.graph_sha256
    assert first == optimised(content, provider="cpu", level="all").execution.graph_sha256
    renamed = onnx.ModelProto()
    renamed.CopyFrom(proto)
    for own in renamed.graph.node:
        own.input[:] = ["inner" if v == "c" else v for v in own.input]
        own.output[:] = ["inner" if v == "c" else v for v in own.output]
    assert optimised(renamed.SerializeToString(), provider="cpu", level="all").execution.graph_sha256 == first
    assert optimised(content, provider="cpu", level="off").execution.graph_sha256 != first
    heavier = dict(ACCOUNTED["Conv+BN+Relu"][1], w=W * 2)
    other = files.model(ACCOUNTED["Conv+BN+Relu"][0], image, heavier)
    assert optimised(other.SerializeToString(), provider="cpu", level="all").execution.graph_sha256 != first


def test_threads_do_not_change_what_is_executed(monkeypatch):
    content = files.model(*(ACCOUNTED["Conv+Add+Relu"][0], image, ACCOUNTED["Conv+Add+Relu"][1])).SerializeToString()
    digests = set()
    for count in (1, 2, 4):
        monkeypatch.setattr(runtime, "threads", lambda count=count: count)
        digests.add(optimised(content, provider="cpu", level="all").execution.graph_sha256)
    assert len(digests) == 1
