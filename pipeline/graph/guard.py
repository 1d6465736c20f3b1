"""Hostile and broken files stop here, before anything is allocated for what they claim to hold."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from pipeline.errors import InputRejected
from pipeline.graph import external
from pipeline.graph.names import listed, shown

OPSETS = range(7, 24)
MAX_BYTES = 2 * 1024**3
MAX_ELEMENTS = 2**29
MAX_NODES = 100_000
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


def read(path: Path | str) -> onnx.ModelProto:
    """The model in a file, external data loaded, after every check that needs no computation.

    Raises InputRejected, naming the rule, what was found and what to do.
    """
    path = Path(path)
    model = parse(path)
    check_structure(model)
    external.load(model, path.parent)
    check_values(model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise InputRejected(
            f"A model must pass the ONNX checker, which says: {shown(str(error), 500)}; export it again."
        ) from None
    return model


def parse(path: Path) -> onnx.ModelProto:
    """The protobuf message alone: no check of its contents, no external data.

    Raises InputRejected for a file that is missing, empty, too large, a Git LFS pointer, truncated or not ONNX.
    """
    if not path.is_file():
        raise InputRejected(f"A model is an ONNX file; there is none at '{shown(str(path))}'.")
    size = path.stat().st_size
    if size == 0:
        raise InputRejected(
            f"A model file holds a model; '{shown(path.name)}' is empty (0 bytes). Copy or export it again."
        )
    if size > MAX_BYTES:
        raise InputRejected(f"A model file has at most {MAX_BYTES} bytes; '{shown(path.name)}' has {size}.")
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):
        raise InputRejected(f"'{shown(path.name)}' is a Git LFS pointer, not the model; run `git lfs pull`.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise InputRejected(
            f"'{shown(path.name)}' ({size} bytes) is truncated, corrupt or not ONNX; copy or export it again."
        ) from None
    if not model.graph.node or not model.opset_import:
        raise InputRejected(
            f"A model has nodes and an opset; '{shown(path.name)}' ({size} bytes) has {len(model.graph.node)} nodes"
            f" and {len(model.opset_import)} opset entries: truncated, or not ONNX. Export it again."
        )
    return model


def check_structure(model: onnx.ModelProto) -> None:
    """What can be refused without touching a tensor: versions, operators, names, declared sizes. Raises InputRejected."""
    _check_opset(model)
    _check_operators(model)
    _check_names(model)
    for tensor in external.tensors(model):
        _check_dims(tensor)
    for port in model.graph.input:
        dims = [d.dim_value for d in port.type.tensor_type.shape.dim]
        if not port.type.HasField("tensor_type"):
            raise InputRejected(f"An input is a tensor; input '{shown(port.name)}' is not. Export the network alone.")
        if math.prod(max(d, 1) for d in dims) > MAX_ELEMENTS:
            raise InputRejected(f"An input has at most {MAX_ELEMENTS} elements; '{shown(port.name)}' declares {dims}.")


def check_values(model: onnx.ModelProto) -> None:
    """Every tensor holds what it declares, and weights are finite. Raises InputRejected.

    A single infinite number may stand for "no bound" (in a Clip, in a mask); a NaN never means anything.
    """
    for tensor in external.tensors(model):
        try:
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:  # KeyError: an element type that there is not
            raise InputRejected(
                f"A tensor holds as many values as its shape says; '{shown(tensor.name)}' of shape {list(tensor.dims)}"
                f" does not ({shown(str(error))}). Export the model again."
            ) from None
        if tensor.data_type in _FLOATS:
            values = array.astype(np.float32) if tensor.data_type == onnx.TensorProto.BFLOAT16 else array
            bad = np.isnan(values) if array.size == 1 else ~np.isfinite(values)
            if bad.any():
                raise InputRejected(
                    f"Weights are finite numbers; '{shown(tensor.name)}' holds {int(bad.sum())} NaN or infinite values of"
                    f" {array.size}. The training that wrote the file diverged, or the file is corrupt."
                )


def _check_opset(model: onnx.ModelProto) -> None:
    versions = [e.version for e in model.opset_import if e.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise InputRejected(
            f"One opset between {OPSETS.start} and {OPSETS.stop - 1} is supported; the file says"
            f" {versions or 'none'}. Export it again at opset 17."
        )


def _check_operators(model: onnx.ModelProto) -> None:
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise InputRejected(f"A graph has at most {MAX_NODES} nodes; this one has {len(graph.node)}.")
    if model.functions:
        raise InputRejected(
            f"Model-local functions are not supported; the file has {len(model.functions)}: inline them with"
            " onnx.inliner.inline_local_functions and save the result."
        )
    if graph.sparse_initializer:
        raise InputRejected("Sparse initialisers are not supported; save the weights as dense tensors.")
    nested = Counter(
        n.op_type
        for n in graph.node
        if n.op_type in _CONTROL_FLOW or any(a.HasField("g") or a.graphs for a in n.attribute)
    )
    if nested:
        raise InputRejected(
            f"Control flow is not supported (a branch must never be ignored); found {_counted(nested)}."
            " Export the network with fixed control flow."
        )
    foreign = Counter(f"{n.domain}::{n.op_type}" for n in graph.node if n.domain not in ("", "ai.onnx"))
    if foreign:
        raise InputRejected(
            f"Only the operators of ONNX itself are supported; found {_counted(foreign)}. Export without custom operators or"
            " runtime-specific optimisation."
        )
    random = Counter(n.op_type for n in graph.node if n.op_type in _RANDOM)
    random.update(n.op_type + " in training mode" for n in graph.node if _trains(n, graph))
    if random:
        raise InputRejected(
            f"A model gives the same answer twice; found nondeterministic {_counted(random)}. Export it in eval mode."
        )


def _trains(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    if node.op_type == "BatchNormalization":
        return any(a.name == "training_mode" and a.i for a in node.attribute)
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    held = {i.name: i for i in graph.initializer}
    held.update(
        {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    )
    flag = held.get(node.input[2])
    return flag is None or bool(numpy_helper.to_array(flag).any())


def _check_names(model: onnx.ModelProto) -> None:
    graph = model.graph
    counts = Counter(i.name for i in graph.initializer)
    counts.update(v for n in graph.node for v in n.output if v)
    initialised = {i.name for i in graph.initializer}
    counts.update(i.name for i in graph.input if i.name not in initialised)
    duplicates = [name for name, count in counts.items() if count > 1]
    if duplicates:
        raise InputRejected(
            f"A value is defined once; defined more than once: {listed(duplicates)}. Export the model again."
        )
    if "" in initialised:
        raise InputRejected("Every initialiser has a name; one has none. Export the model again.")


def _check_dims(tensor: onnx.TensorProto) -> None:
    dims = list(tensor.dims)
    if any(d < 0 for d in dims) or math.prod(dims) > MAX_ELEMENTS:
        raise InputRejected(
            f"A tensor has dimensions >= 0 and at most {MAX_ELEMENTS} elements; '{shown(tensor.name)}' declares {dims[:8]}."
        )
    inline = tensor.data_location != onnx.TensorProto.EXTERNAL
    width = external.item_size(tensor.data_type)
    if inline and tensor.HasField("raw_data") and width and len(tensor.raw_data) != math.ceil(math.prod(dims) * width):
        raise InputRejected(
            f"A tensor holds as many bytes as its shape says; '{shown(tensor.name)}' of shape {dims} needs"
            f" {math.ceil(math.prod(dims) * width)} and holds {len(tensor.raw_data)}. Export the model again."
        )


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{shown(name)} ({count})" for name, count in sorted(counts.items()))
