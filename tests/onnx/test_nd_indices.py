"""GatherND and ScatterND at constant indices: entries are those that ONNX Runtime picks, and samples stay apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.errors import InputRejected
from pipeline.onnx import executed
from tests.onnx.bare import bounded, same
from tests.onnx.files import load, model, node, saved, weights

PLACES = {
    "one axis": np.array([[-1], [0]]),
    "two axes": np.array([[0, 1], [2, 3], [-1, -4], [1, 1]]),
    "a table of two axes": np.array([[[0, 1], [2, 3]], [[-1, 0], [1, 1]]]),
}


def picked(places: np.ndarray, *, scattered: bool, batch: int | str = "n", **how: object) -> onnx.ModelProto:
    """Images (n, 2, 3, 4) with the last two axes first, there picked or replaced, and turned back for a linear layer."""
    nodes = [node("Transpose", ["x"], ["t"], perm=[2, 3, 0, 1])]
    rank = 4 - places.shape[-1] + places.ndim - 1
    if scattered:
        nodes += [node("GatherND", ["t", "i"], ["g"]), node("Mul", ["g", "factor"], ["u"])]
        nodes.append(node("ScatterND", ["t", "i", "u"], ["p"], **how))
        rank = 4
    else:
        nodes.append(node("GatherND", ["t", "i"], ["p"], **how))
    order = [rank - 2, *range(rank - 2), rank - 1]
    nodes += [node("Transpose", ["p"], ["b"], perm=order), node("Flatten", ["b"], ["f"]), node("Relu", ["f"], ["r"])]
    size = 24 if scattered else 2 * (int(np.prod(places.shape[:-1])) * (4 if places.shape[-1] == 1 else 1))
    nodes.append(node("Gemm", ["r", "w", "c"], ["y"]))
    constants = {"i": places, "w": weights(size, 3), "c": weights(3, seed=1), "factor": np.float32(-2)}
    return model(nodes, [batch, 2, 3, 4], {k: v for k, v in constants.items() if scattered or k != "factor"})


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("name", PLACES)
def test_entries_are_those_of_the_runtime_in_any_batch(name: str, scattered: bool, tmp_path: Path) -> None:
    proto, x = picked(PLACES[name], scattered=scattered), weights(5, 2, 3, 4, seed=2)
    same(proto, x)
    bounded(proto, x, 0.05)
    file = load(saved(tmp_path, proto))
    assert file.parity.holds
    for level in ("off", "all"):
        assert executed.unaccounted(proto, executed.optimised(file.file, provider="cpu", level=level), ["y"]) is None


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (picked(np.array([[0, 1], [0, 1]]), scattered=True), "ScatterND .*repeated"),
        (picked(np.array([[0, 1], [2, 3]]), scattered=True, reduction="add"), r"ScatterND .*reduction"),
    ],
)
def test_what_depends_on_an_order_or_on_what_is_there_is_refused(
    proto: onnx.ModelProto, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputRejected, match=said):
        load(saved(tmp_path, proto))


@pytest.mark.parametrize("operator", ["GatherND", "ScatterND"])
def test_places_among_samples_are_refused(operator: str, tmp_path: Path) -> None:
    """The first sample is picked, or overwritten by the second, in every batch."""
    flip = [node("Neg", ["x"], ["u"])] if operator == "ScatterND" else []
    inputs = ["x", "i", "u"] if operator == "ScatterND" else ["x", "i"]
    proto = model([*flip, node(operator, inputs, ["y"])], ["n", 3], {"i": np.array([[1], [0]])})
    with pytest.raises(InputRejected, match=operator):
        load(saved(tmp_path, proto))
