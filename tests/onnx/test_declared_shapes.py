"""Empty values, outputs that declare another shape than they have, graphs without inputs: refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.errors import InputRejected
from tests.onnx.files import load, model, node, saved, weights

EMPTY = {
    "a hidden layer": (
        [node("Gemm", ["x", "w"], ["h"]), node("Relu", ["h"], ["i"]), node("Gemm", ["i", "v"], ["y"])],
        ["batch", 4],
        {"w": weights(4, 0), "v": weights(0, 3)},
        "'h', an output of Gemm",
    ),
    "no classes": ([node("MatMul", ["x", "w"], ["y"])], ["batch", 4], {"w": weights(4, 0)}, "'y', an output of MatMul"),
    "no channels": (
        [node("Conv", ["x", "w"], ["h"]), node("Flatten", ["h"], ["y"])],
        [1, 3, 4, 4],
        {"w": weights(0, 3, 3, 3)},
        "'h', an output of Conv",
    ),
    "a slice of nothing": (
        [node("Slice", ["x", "a", "b", "c"], ["y"])],
        ["batch", 4],
        {"a": np.array([3]), "b": np.array([2]), "c": np.array([1])},
        "'y', an output of Slice",
    ),
    "an input": ([node("Relu", ["x"], ["y"])], ["batch", 0], {}, "'x' declares"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_values_that_hold_no_number_are_named(case: str, tmp_path: Path) -> None:
    nodes, shape, tensors, message = EMPTY[case]
    with pytest.raises(InputRejected, match=re.escape(message)):
        load(saved(tmp_path, model(nodes, shape, tensors)))


def declaring(dims: list, batch: int | str = "batch") -> onnx.ModelProto:
    proto = model([node("MatMul", ["x", "w"], ["y"])], [batch, 4], {"w": weights(4, 3)})
    shape = proto.graph.output[0].type.tensor_type.shape
    del shape.dim[:]
    for d in dims:
        shape.dim.add(**({"dim_value": d} if isinstance(d, int) else {"dim_param": d}))
    return proto


@pytest.mark.parametrize("dims", [["N", 3], ["a", "b"], [1, 3]])
def test_what_an_output_may_declare(dims: list, tmp_path: Path) -> None:
    assert load(saved(tmp_path, declaring(dims))).parity.holds


@pytest.mark.parametrize(
    ("dims", "batch"), [(["N", 2], "batch"), (["N"], "batch"), (["N", 3, 1], "batch"), ([2, 3], 1), ([1, 30], 1)]
)
def test_an_output_that_declares_another_shape_than_it_has_is_refused(
    dims: list, batch: int | str, tmp_path: Path
) -> None:
    with pytest.raises(InputRejected, match=r"'y' declares \[.*\] and has \[., 3\]"):
        load(saved(tmp_path, declaring(dims, batch)))


def test_a_graph_without_inputs_is_refused(tmp_path: Path) -> None:
    proto = model([node("Relu", ["c"], ["y"])], [1, 2], {"c": weights(1, 2)})
    del proto.graph.input[:]
    with pytest.raises(InputRejected, match="has an input; this graph has none"):
        load(saved(tmp_path, proto))


@pytest.mark.parametrize("opset", [17, 21])
def test_a_newer_version_of_the_format_is_told_how_to_be_set_back(opset: int, tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["y"])], ["batch", 2], opset=opset)
    proto.ir_version = 14
    with pytest.raises(InputRejected, match=r"says 14\..*model\.ir_version = 10"):
        load(saved(tmp_path, proto))
    proto.ir_version = 10
    assert load(saved(tmp_path, proto)).parity.holds


def test_advice_to_set_the_version_back_is_given_only_where_it_helps(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["y"])], ["batch", 2])
    proto.ir_version, proto.opset_import[0].version = 14, 25
    with pytest.raises(InputRejected, match="One opset between 7 and 23"):
        load(saved(tmp_path, proto))
