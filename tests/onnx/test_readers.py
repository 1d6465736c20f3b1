"""What an import costs grows with the number of nodes, and not with its square, however many read one value."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import numpy as np
import onnx
import pytest

from pipeline.onnx import importer, model_file
from tests.onnx.files import model, node, saved, weights

POINTWISE = ("Relu", "Softmax", "Identity", "Dropout")
HELD = {
    "Gemm": weights(4, 4),
    "Reshape": np.array([-1, 4]),
    "Add": weights(4),
    "Mul": np.array(0.5, np.float32),
    "Gather": np.array([3, 1, 2, 0]),
}
CHAINS = ("Add", "Mul", "Max")


def readers(kind: str, count: int) -> onnx.ModelProto:
    """``count`` nodes that read one value, side by side or, in a chain, each the one before it too."""
    operator, chain = kind.split()[0], "chain" in kind
    nodes, tensors, last = [node("Relu", ["x"], ["shared"])], {}, "shared"
    for i in range(count):
        more = {"axis": 1} if operator == "Gather" else {}
        inputs = ["shared"]
        if chain:
            inputs = ["shared", last] if i % 2 else [last, "shared"]
        elif operator not in POINTWISE:
            tensors[f"c{i}"] = HELD[operator]
            inputs.append(f"c{i}")
        nodes.append(node(operator, inputs, [last := f"v{i}"], **more))
    if not chain:
        nodes.append(node("Concat", [f"v{i}" for i in range(count)], [last := "all"], axis=1))
    nodes.append(node("Gemm", [last, "w"], ["y"]))
    return model(nodes, ["batch", 4], tensors | {"w": weights(4 if chain else 4 * count, 3)})


def calls(path: Path) -> int:
    """Calls of functions, in Python and out of it, that an import makes."""
    file, count_of_calls = model_file.read(path), 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count_of_calls
        count_of_calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        importer.load(file)
    finally:
        sys.setprofile(before)
    return count_of_calls


@pytest.mark.parametrize("kind", [*POINTWISE, *HELD, *(f"{operator} chain" for operator in CHAINS)])
def test_twice_as_many_readers_cost_twice_as_much(kind: str, tmp_path: Path) -> None:
    importer.load(model_file.read(saved(tmp_path, readers(kind, 2))))  # what is imported and remembered once
    few, more, most = (calls(saved(tmp_path, readers(kind, count))) for count in (50, 100, 200))
    assert most - more <= 2.02 * (more - few)
