"""Refuses hostile and broken files before anything is allocated for what they declare."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import numpy_helper

from pipeline.errors import InputRejected, out_of_memory
from pipeline.limits import limits, raised
from pipeline.onnx import allowed, external
from pipeline.onnx.names import listed, shown

DEPTH = 32
"""The nesting of graphs that protobuf parses: 100 messages, three for each graph in a node's attribute."""
NEWEST_IR = min(13, onnx.IR_VERSION)
"""ONNX Runtime 1.31 loads no newer one."""
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


def parse(content: bytes, name: str) -> onnx.ModelProto:
    """Parse the protobuf message of a file called ``name``, without checking its contents or loading external data.

    Raises InputRejected for bytes that are empty, a Git LFS pointer, truncated or not ONNX.
    """
    if not content:
        raise InputRejected(f"A model file holds a model; '{shown(name)}' is empty (0 bytes). Copy or export it again.")
    if content.startswith(b"version https://git-lfs"):
        raise InputRejected(f"'{shown(name)}' is a Git LFS pointer, not the model; run `git lfs pull`.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        if "depth" in str(error).lower():
            raise InputRejected(
                f"Graphs nest at most {DEPTH} deep, and control flow is not supported; those of '{shown(name)}' nest"
                " deeper. Export the network with fixed control flow."
            ) from None
        raise InputRejected(
            f"'{shown(name)}' ({len(content)} bytes) is truncated, corrupt or not ONNX; copy or export it again."
        ) from None
    _check_text(model)
    if not model.graph.node or not model.opset_import:
        raise InputRejected(
            f"A model has nodes and an opset; '{shown(name)}' ({len(content)} bytes) has {len(model.graph.node)} nodes"
            f" and {len(model.opset_import)} opset entries: truncated, or not ONNX. Export it again."
        )
    return model


def check_by_onnx(model: onnx.ModelProto) -> None:
    """Run ONNX's own checker. Raises InputRejected with what it reports."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        if out_of_memory(error) and model.ByteSize() < 2**31:  # larger messages always fail
            raise
        raise InputRejected(
            f"A model must pass the ONNX checker, which says: {shown(str(error), 500)}; export it again."
        ) from None


def _check_text(message: Message) -> None:
    """Raise InputRejected for names that are not UTF-8, which protobuf returns as bytes."""
    # Listing the fields of a tensor would copy its values.
    by_name = message.DESCRIPTOR.fields_by_name
    tensor = isinstance(message, onnx.TensorProto)
    fields = (
        map(by_name.get, ("name", "doc_string", "external_data")) if tensor else (f for f, _ in message.ListFields())
    )
    for field in fields:
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        value = getattr(message, field.name)
        for part in (value,) if isinstance(value, str | bytes | Message) else value:
            if isinstance(part, Message):
                _check_text(part)
            elif isinstance(part, bytes):
                raise InputRejected(
                    f"Text in a model is UTF-8; {message.DESCRIPTOR.name}.{field.name} is {part[:40]!r}. Copy or export"
                    " the file again."
                )


def check_structure(model: onnx.ModelProto) -> None:
    """Check versions, operators, names and declared sizes, without reading a tensor. Raises InputRejected."""
    graph = model.graph
    allowed.opset(model)  # first: other errors matter only at a supported opset
    if model.ir_version > NEWEST_IR:
        raise InputRejected(
            f"A file's IR version is at most {NEWEST_IR}; this one says {model.ir_version}. No operator that is supported needs"
            " a newer one: set model.ir_version = 10 (between onnx.load and onnx.save), and certify and deploy that file."
        )
    if not [i for i in graph.input if i.name not in {t.name for t in graph.initializer}]:
        raise InputRejected(
            "A model has an input; this graph has none: its outputs are constants. Export the network itself."
        )
    if not graph.output:
        raise InputRejected("A model has an output; this graph has none. Export the network with its logits.")
    if max(len(graph.node), len(graph.initializer)) > limits().nodes:
        raise InputRejected(
            f"A graph has at most {limits().nodes} nodes, and as many initialisers; this one has {len(graph.node)} and"
            f" {len(graph.initializer)}. {raised('nodes')}"
        )
    if graph.sparse_initializer:
        raise InputRejected("Sparse initialisers are not supported; save the weights as dense tensors.")
    if sparse := [n for n in graph.node if any(a.HasField("sparse_tensor") or a.sparse_tensors for a in n.attribute)]:
        raise InputRejected(
            f"Sparse tensors are not supported; {len(sparse)} nodes hold one, the first is a {shown(sparse[0].op_type)}."
            " Save constants as dense tensors."
        )
    allowed.check(model)
    _check_attributes(graph)
    _check_names(graph)
    total = 0
    for tensor in external.tensors(model):
        _check_dims(tensor)
        total += external.size(tensor)
    if total > limits().weights_bytes:
        raise InputRejected(
            f"All tensors together take at most {limits().weights_bytes} bytes; those of this file declare {total}."
            f" {raised('weights_bytes')}"
        )
    _check_order(graph)
    for port in model.graph.input:
        dims = [d.dim_value for d in port.type.tensor_type.shape.dim]
        if not port.type.HasField("tensor_type"):
            raise InputRejected(f"An input is a tensor; input '{shown(port.name)}' is not. Export the network alone.")
        if any(d.HasField("dim_value") and d.dim_value == 0 for d in port.type.tensor_type.shape.dim):
            raise InputRejected(
                f"An input holds numbers; '{shown(port.name)}' declares {dims[:8]}, where an axis has no entry. Export the model"
                " with its size, or with a free one."
            )
        if math.prod(max(d, 1) for d in dims) > limits().tensor_elements:
            raise InputRejected(
                f"An input has at most {limits().tensor_elements} elements; '{shown(port.name)}' declares {dims[:8]}."
                f" {raised('tensor_elements')}"
            )


def check_values(model: onnx.ModelProto) -> None:
    """Check that tensors match their declarations and that weights are finite. Raises InputRejected.

    A single infinite number is accepted, as in a Clip or a mask; NaN never is.
    """
    for tensor in external.tensors(model):
        try:
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:  # KeyError: an unknown element type
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


def _check_attributes(graph: onnx.GraphProto) -> None:
    """Check what ONNX's checker accepts: attributes that refer to a function's, and a Constant without exactly one value."""
    for node in graph.node:
        references = [a.name for a in node.attribute if a.ref_attr_name]
        if references or (node.op_type == "Constant" and node.domain in allowed.STANDARD and len(node.attribute) != 1):
            content = (
                f"'{shown(references[0])}' of another function's" if references else f"{len(node.attribute)} of them"
            )
            raise InputRejected(
                f"A node holds the values of its attributes, and a Constant one; {shown(node.op_type)}"
                f" '{shown(node.name or next(iter(node.output), ''))}' has {content}. Export the model again."
            )


def _check_names(graph: onnx.GraphProto) -> None:
    counts = Counter(i.name for i in graph.initializer)
    counts.update(v for n in graph.node for v in n.output if v)
    initialised = {i.name for i in graph.initializer}
    counts.update(i.name for i in graph.input if i.name not in initialised)
    duplicates = [name for name, count in counts.items() if count > 1]
    if duplicates:
        raise InputRejected(
            f"A value is defined once; defined more than once: {listed(duplicates)}. Export the model again."
        )
    if repeated := [name for name, count in Counter(o.name for o in graph.output).items() if count > 1]:
        raise InputRejected(
            f"An output is named once; named more than once: {listed(repeated)}. Export the model again."
        )
    if "" in initialised:
        raise InputRejected("Every initialiser has a name; one has none. Export the model again.")


def _check_order(graph: onnx.GraphProto) -> None:
    defined = {"", *(p.name for p in graph.input), *(t.name for t in graph.initializer)}
    for index, node in enumerate(graph.node):
        if not defined.issuperset(node.input):
            value = next(v for v in node.input if v not in defined)
            raise InputRejected(
                f"A node reads what comes before it; node {index} ({shown(node.op_type)}) reads '{shown(value)}', which no"
                " earlier node, initialiser or input gives: the graph has a cycle, is out of order or incomplete. Export the"
                " model again."
            )
        defined.update(node.output)
    missing = [o.name for o in graph.output if o.name not in defined]
    if missing:
        raise InputRejected(f"Every output is computed; these are not: {listed(missing)}. Export the model again.")


def _check_dims(tensor: onnx.TensorProto) -> None:
    dims = list(tensor.dims)
    if any(d < 0 for d in dims) or math.prod(dims) > limits().tensor_elements:
        raise InputRejected(
            f"A tensor has dimensions >= 0 and at most {limits().tensor_elements} elements; '{shown(tensor.name)}' declares"
            f" {dims[:8]}: the file is damaged or hostile. Export the model again."
        )
    has_raw_data, expected = tensor.HasField("raw_data") and not external.is_external(tensor), external.size(tensor)
    if has_raw_data and external.item_size(tensor.data_type) and len(tensor.raw_data) != expected:
        raise InputRejected(
            f"A tensor holds as many bytes as its shape says; '{shown(tensor.name)}' of shape {dims} needs"
            f" {expected} and holds {len(tensor.raw_data)}. Export the model again."
        )
