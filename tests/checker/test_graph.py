"""What the checker does not read it refuses by name; what it reads is compared with minima by enumeration in test_bounds.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.checker.graph import FileGraph
from pipeline.errors import InputRejected
from tests.checker.small import Drawing


def ending_in(operator: str, *weights: tuple[int, ...], **attributes: object) -> Callable[[], bytes]:
    """A file of one operator behind the input, a picture of 2 x 4 x 4."""

    def content() -> bytes:
        d = Drawing(0)
        return d.model(d.node(operator, "x", *(d.weight(*shape) for shape in weights), **attributes), "n", 2, 4, 4)

    return content


def changed(change: Callable[[onnx.ModelProto], object]) -> Callable[[], bytes]:
    """A file that would be read, had nobody changed it."""

    def content() -> bytes:
        model = onnx.ModelProto.FromString(ending_in("Conv", (3, 2, 3, 3))())
        change(model)
        return model.SerializeToString()

    return content


def on_the_left() -> bytes:
    d = Drawing(0)
    return d.model(d.node("MatMul", d.weight(4, 4), "x"), "n", 2, 4, 4)


def reshaped(*sizes: int) -> Callable[[], bytes]:
    def content() -> bytes:
        d = Drawing(0)
        return d.model(d.node("Reshape", "x", d.constant(np.array(sizes))), "n", 2, 4, 4)

    return content


def external(model: onnx.ModelProto) -> None:
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "w.bin")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "no model": (lambda: b"\xff\xff", "no ONNX model"),
    "an operator": (ending_in("Sigmoid"), "Sigmoid"),
    "padding by name": (ending_in("Conv", (3, 2, 3, 3), auto_pad="SAME_UPPER"), "auto_pad"),
    "other channels": (ending_in("Conv", (3, 1, 3, 3)), "channels"),
    "a window that is too large": (ending_in("Conv", (3, 2, 5, 5)), "no entry"),
    "a window that negative pads cut": (ending_in("Conv", (3, 2, 3, 3), pads=[-1, 0, 0, 0]), "window"),
    "means that round up": (ending_in("AveragePool", kernel_shape=[2, 2], ceil_mode=1), "ceil_mode"),
    "statistics of the batch": (
        ending_in("BatchNormalization", (2,), (2,), (2,), (2,), training_mode=1),
        "training_mode",
    ),
    "a product of the samples": (on_the_left, "MatMul"),
    "a constant that widens": (ending_in("Add", (3, 2, 4, 4)), "shape"),
    "samples that move": (ending_in("Transpose", perm=[1, 0, 2, 3]), "samples"),
    "samples that are cut": (reshaped(2, 16), "samples"),
    "weights elsewhere": (changed(external), "other files"),
    "weights of float64": (
        changed(lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((3, 2, 3, 3)), "w0"))),
        "float32",
    ),
    "weights that are infinite": (
        changed(
            lambda m: m.graph.initializer[0].CopyFrom(
                numpy_helper.from_array(np.full((3, 2, 3, 3), np.inf, np.float32), "w0")
            )
        ),
        "finite",
    ),
    "two inputs": (changed(lambda m: m.graph.input.add().CopyFrom(m.graph.output[0])), "2 inputs"),
    "two outputs": (changed(lambda m: m.graph.output.add().CopyFrom(m.graph.output[0])), "2 outputs"),
    "two values of a name": (changed(lambda m: m.graph.node.add().CopyFrom(m.graph.node[0])), "two values of one name"),
    "an operator of others": (changed(lambda m: setattr(m.graph.node[0], "domain", "com.example")), "Conv"),
    "an old opset": (changed(lambda m: setattr(m.opset_import[0], "version", 6)), "opset 7"),
    "an operator that the file defines": (
        changed(lambda m: m.functions.add().CopyFrom(helper.make_function("", "Conv", [], [], [], []))),
        "functions",
    ),
    "a batch of several": (
        changed(lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].CopyFrom(several())),
        "one sample",
    ),
    "an output of nothing": (changed(lambda m: setattr(m.graph.output[0], "name", "nobody")), "an output"),
}


def several() -> onnx.TensorShapeProto.Dimension:
    return onnx.TensorShapeProto.Dimension(dim_value=3)


@pytest.mark.parametrize("what", CASES)
def test_what_is_not_read_is_refused_by_name(what: str) -> None:
    content, word = CASES[what]
    with pytest.raises(InputRejected, match=word):
        FileGraph(content())
    FileGraph(changed(lambda m: None)())
