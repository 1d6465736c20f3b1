"""Models that strangers might send: each function writes ``m.onnx`` into a folder, broken or hostile in one way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.onnx.files import mlp, model, node

Make = Callable[[Path], object]
HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m<script>alert(1)</script>::error::x ##vso[task.setvariable variable=x]y"
    "|`*[a](http://b)\u202e\"'}); import os; os.system('touch executed') #"
)
"""A name that means something to a terminal, a browser, Markdown, a build server's log and Python at once."""
TEBI = 2**40


def written(content: bytes) -> Make:
    return lambda folder: (folder / "m.onnx").write_bytes(content)


def changed(change: Callable[[onnx.ModelProto], object]) -> Make:
    """A good model with one thing changed, written without a word from the checker."""

    def make(folder: Path) -> None:
        made = mlp()
        change(made)
        (folder / "m.onnx").write_bytes(made.SerializeToString())

    return make


def built(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] = ("batch", 6),
    constants: dict[str, np.ndarray] | None = None,
    **said: object,
) -> Make:
    def make(folder: Path) -> None:
        made = model(nodes, shape, constants, **said)  # type: ignore[arg-type]
        (folder / "m.onnx").write_bytes(made.SerializeToString())

    return make


def beside(change: Callable[[Path], object] | None = None, **entries: str) -> Make:
    """A model with its weights in ``m.data``: entries of its first tensor changed, or something done to the folder."""

    def make(folder: Path) -> None:
        onnx.save(mlp(), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        made = onnx.load(folder / "m.onnx", load_external_data=False)
        for entry in made.graph.initializer[0].external_data:
            entry.value = entries.get(entry.key, entry.value)
        (folder / "m.onnx").write_bytes(made.SerializeToString())
        if change is not None:
            change(folder)

    return make


def linked(folder: Path) -> None:
    (folder / "m.data").rename(folder / "blob")
    (folder / "m.data").symlink_to("blob")


def linked_folder(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "m.data").rename(folder / "real" / "m.data")
    (folder / "sub").symlink_to("real")


def cut(folder: Path) -> None:
    (folder / "m.data").write_bytes((folder / "m.data").read_bytes()[:10])


def weights_of(name: str, array: np.ndarray) -> Callable[[onnx.ModelProto], object]:
    def change(made: onnx.ModelProto) -> None:
        held = next(t for t in made.graph.initializer if t.name == name)
        held.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))

    return change


def dims(*sizes: int) -> Callable[[onnx.ModelProto], object]:
    def change(made: onnx.ModelProto) -> None:
        made.graph.initializer[0].dims[:] = sizes
        made.graph.initializer[0].raw_data = bytes(8)

    return change


def appended(*nodes: onnx.NodeProto) -> Callable[[onnx.ModelProto], object]:
    return lambda made: made.graph.node.extend(nodes)


def shares_one_sidecar(folder: Path) -> None:
    """Ten thousand tensors, all of them the same mebibyte of a sparse file."""
    made = mlp()
    with (folder / "m.data").open("wb") as file:
        file.truncate(2**20)
    for index in range(20_000):
        tensor = made.graph.initializer.add(
            name=f"t{index}", data_type=TensorProto.FLOAT, dims=[2**18], data_location=TensorProto.EXTERNAL
        )
        tensor.external_data.add(key="location", value="m.data")
    (folder / "m.onnx").write_bytes(made.SerializeToString())


def bomb(operator: str, constants: dict[str, np.ndarray], inputs: Sequence[str], **attributes: object) -> Make:
    """A node that makes tebibytes out of a few bytes, reduced to one number at once."""
    nodes = [
        node(operator, inputs, ["big"], **attributes),
        node("Cast", ["big"], ["cast"], to=TensorProto.FLOAT),
        node("ReduceMean", ["cast"], ["total"], keepdims=0),
        node("Add", ["x", "total"], ["y"]),
    ]
    return built(nodes, ["batch", 6], constants)


def outer_product() -> Make:
    constants = {"a": np.ones((2**20, 1), np.float32), "b": np.ones((1, 2**20), np.float32)}
    return bomb("Add", constants, ["a", "b"])


def free_sizes() -> Make:
    """Every free dimension is small; their product is not."""
    return built([node("Relu", ["x"], ["h"]), node("ReduceMean", ["h"], ["y"], keepdims=0)], ("batch", *"abcdefg"))


def of_the_input() -> Make:
    """Tebibytes by the shape of the input alone, so that no constant says it."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Mul", ["s", "k"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["big"]),
        node("ReduceMean", ["big"], ["total"], keepdims=0),
        node("Add", ["x", "total"], ["y"]),
    ]
    return built(nodes, ["batch", 6], {"k": np.array([2**19, 2**19])})


def nested(depth: int) -> Make:
    """``If`` within ``If``, as deep as asked; written as bytes, because onnx itself cannot copy what is so deep."""
    graph = _field(1, _field(1, b"x") + _field(2, b"z") + _field(4, b"Relu"))
    for _ in range(depth):
        branch = _field(1, b"then_branch") + _field(6, graph) + b"\xa0\x01\x05"
        graph = _field(1, _field(1, b"c") + _field(2, b"z") + _field(4, b"If") + _field(5, branch))
    # A field that comes twice is merged: the graph gains a node.
    return written(mlp().SerializeToString() + _field(7, graph))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    size, length = len(content), b""
    while size > 127:
        size, length = size >> 7, length + bytes([size & 127 | 128])
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def with_graph(operator: str) -> Make:
    body = helper.make_graph([node("Relu", ["x"], ["z"])], "g", [], [])
    return changed(appended(node(operator, ["x"], ["z"], body=body)))


def doubling(levels: int) -> Make:
    """Local functions, each of which calls the one below twice: 2^levels nodes once inlined."""

    def change(made: onnx.ModelProto) -> None:
        for level in range(levels):
            below = f"f{level - 1}" if level else "Relu"
            calls = [
                helper.make_node(below, [a], [b], domain="local" if level else "") for a, b in (("a", "h"), ("h", "b"))
            ]
            imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
            made.functions.append(helper.make_function("local", f"f{level}", ["a"], ["b"], calls, imports))
        made.opset_import.add(domain="local", version=1)
        made.graph.node.append(helper.make_node(f"f{levels - 1}", ["x"], ["z"], domain="local"))

    return changed(change)


def overridable(made: onnx.ModelProto) -> None:
    """Weights that are inputs too, in a version of the format in which a caller may override them."""
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def two_outputs(made: onnx.ModelProto) -> None:
    made.graph.output.append(helper.make_tensor_value_info("h5", TensorProto.FLOAT, ["batch", 4]))


def metadata(key: str, value: str) -> Make:
    return changed(lambda made: made.metadata_props.add(key=key, value=value))


def named(text: str) -> Make:
    """Everything in the file that has a name is called ``text``, and an index."""

    def change(made: onnx.ModelProto) -> None:
        graph, table = made.graph, {"": ""}

        def rename(name: str) -> str:
            return table.setdefault(name, f"{text}{len(table)}")

        for tensor in graph.initializer:
            tensor.name = rename(tensor.name)
        for port in (*graph.input, *graph.output):
            port.name = rename(port.name)
        graph.input[0].type.tensor_type.shape.dim[0].dim_param = text
        for index, step in enumerate(graph.node):
            step.name, step.doc_string = f"{text}{index}", text
            step.input[:] = [rename(v) for v in step.input]
            step.output[:] = [rename(v) for v in step.output]
        graph.name = graph.doc_string = made.doc_string = made.producer_name = text
        made.metadata_props.add(key=text, value=text)

    return changed(change)
