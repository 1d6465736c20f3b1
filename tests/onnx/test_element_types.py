"""Half precision inside a file or at its input is refused in plain words; float64, and stored halves, are read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from pipeline.errors import InputRejected
from tests.onnx.files import load, model, node, saved, weights

SMALL = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
FORBIDDEN = re.compile("dtype, but got|mat1|please report|onnxruntimeerror", re.IGNORECASE)


def refusal(folder: Path, proto: object) -> str:
    with pytest.raises(InputRejected) as caught:
        load(saved(folder, proto))  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("place", ["there and back", "at the end", "behind a layer"])
def test_a_cast_to_half_precision_names_value_operator_and_type(kind: str, place: str, tmp_path: Path) -> None:
    to = SMALL[kind]
    nodes = {
        "there and back": [node("Cast", ["x"], ["h"], to=to), node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)],
        "at the end": [node("Relu", ["x"], ["i"]), node("Cast", ["i"], ["y"], to=to)],
        "behind a layer": [
            node("MatMul", ["x", "w"], ["i"]),
            node("Cast", ["i"], ["h"], to=to),
            node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
        ],
    }[place]
    tensors = {"w": weights(4, 3)} if place == "behind a layer" else {}
    text = refusal(tmp_path, model(nodes, ["batch", 4], tensors))
    assert f"an output of Cast, is {kind}" in text
    assert ("'y'" if place == "at the end" else "'h'") in text
    assert "float32" in text
    assert not FORBIDDEN.search(text)


def test_an_input_in_half_precision_is_named(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["y"])], ["batch", 4], dtype=TensorProto.FLOAT16)
    assert "'x', an input of the model, is float16" in refusal(tmp_path, proto)


def test_a_layer_inside_in_half_precision_is_named(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("Conv", ["h", "w"], ["i"]),
        node("Relu", ["i"], ["j"]),
        node("Cast", ["j"], ["y"], to=TensorProto.FLOAT),
    ]
    text = refusal(tmp_path, model(nodes, ["batch", 2, 4, 4], {"w": weights(3, 2, 3, 3).astype(np.float16)}))
    assert "one of 3 float16" in text
    assert not FORBIDDEN.search(text)


def test_weights_stored_in_half_precision_are_constants(tmp_path: Path) -> None:
    nodes = [node("Cast", ["w"], ["v"], to=TensorProto.FLOAT), node("MatMul", ["x", "v"], ["y"])]
    assert load(saved(tmp_path, model(nodes, ["batch", 4], {"w": weights(4, 3).astype(np.float16)}))).parity.holds


def test_two_widths_that_meet_are_named(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE),
        node("MatMul", ["h", "w"], ["i"]),
        node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    text = refusal(tmp_path, model(nodes, ["batch", 4], {"w": weights(4, 3, dtype=np.float64)}))
    assert "MatMul computes 'i' with float64 constants" in text
    assert not FORBIDDEN.search(text)


def test_float64_without_constants_and_float64_throughout_are_read(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE),
        node("Relu", ["h"], ["i"]),
        node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    assert load(saved(tmp_path, model(nodes, ["batch", 4]))).parity.holds
    whole = model(
        [node("MatMul", ["x", "w"], ["y"])],
        ["batch", 4],
        {"w": weights(4, 3, dtype=np.float64)},
        dtype=TensorProto.DOUBLE,
    )
    assert load(saved(tmp_path, whole)).parity.holds
