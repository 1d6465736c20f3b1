"""Files without a batch axis: given one, they compute what ONNX Runtime does; a wrong rewriting is refused by parity."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from pipeline.errors import InputRejected
from pipeline.onnx import importer, model_file, parity
from pipeline.onnx.passes import add_batch
from tests.onnx.files import session

RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.normal(size=(3, 4)).astype(np.float32),
    "v": RNG.normal(size=(2, 2)).astype(np.float32),
    "row": RNG.normal(size=3).astype(np.float32),
    "deep": RNG.normal(size=(4, 2, 3)).astype(np.float32),
    "stack": RNG.normal(size=(2, 3, 3)).astype(np.float32),
    "none": np.array([], np.int64),
    "i": np.array([2, 0]),
    "shape": np.array([3, 2]),
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "big": np.array([4, 2, 3]),
    "pads": np.array([0, 1, 0, 1]),
}
NODE = helper.make_node
FORMS = {
    "Add to fewer axes": [NODE("Add", ["x", "row"], ["y"])],
    "Add to more axes": [NODE("Add", ["x", "deep"], ["y"])],
    "Add of a part": [NODE("ReduceSum", ["x", "zero"], ["s"], keepdims=0), NODE("Mul", ["x", "s"], ["y"])],
    "MatMul": [NODE("MatMul", ["x", "w"], ["y"])],
    "MatMul from the left": [NODE("MatMul", ["v", "x"], ["y"])],
    "MatMul of a vector": [NODE("ReduceMax", ["x"], ["s"], axes=[0], keepdims=0), NODE("MatMul", ["s", "w"], ["y"])],
    "MatMul of more axes": [NODE("MatMul", ["x", "stack"], ["y"])],
    "MatMul of fewer axes": [NODE("MatMul", ["x", "row"], ["y"])],
    "MatMul of a stack from the left": [NODE("MatMul", ["stack", "t"], ["y"]), NODE("Transpose", ["x"], ["t"])][::-1],
    "Gemm": [NODE("Gemm", ["x", "w"], ["y"])],
    "Transpose": [NODE("Transpose", ["x"], ["t"]), NODE("Relu", ["t"], ["y"])],
    "Reshape": [NODE("Reshape", ["x", "shape"], ["y"])],
    "Flatten": [NODE("Flatten", ["x"], ["y"], axis=0)],
    "Squeeze": [NODE("Slice", ["x", "zero", "one", "zero"], ["s"]), NODE("Squeeze", ["s", "zero"], ["y"])],
    "Unsqueeze": [NODE("Unsqueeze", ["x", "one"], ["y"])],
    "Softmax": [NODE("Softmax", ["x"], ["s"], axis=0), NODE("MatMul", ["s", "w"], ["y"])],
    "Concat": [NODE("Concat", ["x", "deep_0"], ["y"], axis=0)],
    "Gather": [NODE("Gather", ["x", "i"], ["y"], axis=1)],
    "Split": [NODE("Split", ["x"], ["a", "b"], axis=0), NODE("Sub", ["a", "b"], ["y"])],
    "Slice": [NODE("Slice", ["x", "zero", "two", "one"], ["y"])],
    "Reduce no axis, so all": [NODE("ReduceL1", ["x", "none"], ["y"], keepdims=0)],
    "Reduce all": [NODE("ReduceMean", ["x"], ["y"], keepdims=0)],
    "Expand": [NODE("Expand", ["x", "big"], ["y"])],
}  # fmt: skip


def file_of(folder, nodes, given=None, opset=17):
    """A file of one input of shape 2 x 3, of constants of this module or ``given``."""
    constants = CONSTANTS | {"deep_0": CONSTANTS["deep"][0]} | (given or {})
    read = {name for node in nodes for name in node.input}
    x, y = helper.make_tensor_value_info("x", 1, [2, 3]), helper.make_tensor_value_info("y", 1, None)
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in read]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "f.onnx")
    return model_file.read(folder / "f.onnx")


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_a_batch_in_front_computes_the_same(tmp_path, form):
    opset = 18 if any("none" in node.input for node in FORMS[form]) else 17
    imported = importer.load(file_of(tmp_path, FORMS[form], opset=opset), lift=True)
    assert imported.network.inputs[0].shape == (1, 2, 3)
    run = session(tmp_path / "f.onnx")
    for x in RNG.normal(size=(5, 2, 3)).astype(np.float32):
        (there,) = run(x)
        here = imported.network(torch.from_numpy(x[None])).detach().numpy()
        assert here.shape == (1, *there.shape)
        np.testing.assert_allclose(here[0], there, rtol=1e-5, atol=1e-6)


def test_a_wrong_rewriting_is_refused_by_parity(tmp_path, monkeypatch):
    file = file_of(tmp_path, FORMS["Softmax"])
    monkeypatch.setitem(add_batch._REWRITES, "Softmax", lambda lift, node: node)
    with pytest.raises(InputRejected, match="must compute what ONNX Runtime computes"):
        importer.load(file, lift=True)


def test_what_cannot_be_given_a_batch_is_refused_by_name(tmp_path):
    nodes = [NODE("MatMul", ["v", "x"], ["h"]), NODE("Pad", ["h", "pads"], ["y"])]
    with pytest.raises(InputRejected, match="Pad as it stands here cannot be given such an axis"):
        importer.load(file_of(tmp_path, nodes), lift=True)


REFUSED = {
    "MatMul": [NODE("ReduceMax", ["x"], ["s"], axes=[0], keepdims=0), NODE("MatMul", ["s", "stack"], ["y"])],
    "ReduceL1": [NODE("ReduceL1", ["x"], ["y"], noop_with_empty_axes=1)],
}


@pytest.mark.parametrize("operator", REFUSED)
def test_axes_that_a_batch_would_be_counted_among_are_refused_by_name_before_parity(tmp_path, operator):
    with pytest.raises(InputRejected, match=f"{operator} as it stands here cannot be given such an axis"):
        importer.load(file_of(tmp_path, REFUSED[operator], opset=18 if operator == "ReduceL1" else 17), lift=True)


@pytest.mark.parametrize("operator", ["Reshape", "Expand"])
def test_a_shape_that_the_input_decides_is_not_taken_for_the_one_that_was_measured(tmp_path, operator):
    """It would be another beside the points at which shapes are measured, and parity."""
    first = [NODE("ReduceMax", ["x"], ["m"], keepdims=0), NODE("Greater", ["m", "high"], ["c"])]
    chosen = [NODE("Where", ["c", "shape", "other"], ["t"]), NODE(operator, ["x", "t"], ["y"])]
    shapes = {"Reshape": ([3, 2], [6, 1]), "Expand": ([2, 3], [1, 1])}[operator]
    given = {"high": np.float32(1e6), "shape": np.array(shapes[0]), "other": np.array(shapes[1])}
    with pytest.raises(InputRejected, match=f"{operator} as it stands here cannot be given such an axis"):
        importer.load(file_of(tmp_path, [*first, *chosen], given), lift=True)


def test_a_function_that_optimisation_changes_is_refused_where_node_by_node_nothing_differs(tmp_path, monkeypatch):
    """ONNX Runtime multiplies a matrix that one kernel also transposes by a vector wrongly; the file itself is right."""
    nodes = [NODE("Transpose", ["x"], ["t"]), NODE("MatMul", ["t", "pair"], ["s"]), NODE("MatMul", ["s", "w"], ["y"])]
    file = file_of(tmp_path, nodes, {"pair": np.array([0.85, 0.46], np.float32)})
    with pytest.raises(
        InputRejected, match=r"as deployed, at graph optimization level 'all', entry .* another function"
    ):
        importer.load(file, lift=True)
    assert importer.load(file, lift=True, level="off").parity.holds
    monkeypatch.setattr(parity, "FAR", 1e9)
    assert importer.load(file, lift=True).parity.holds
