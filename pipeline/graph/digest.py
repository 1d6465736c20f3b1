"""Digests of a model: of the delivered bytes, of the graph without its weights, of the weights alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from pipeline.graph import external, guard

_FIELDS = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data", "external_data")
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Digests:
    """Hexadecimal SHA-256 each."""

    sha256: str
    """Of the file's bytes (as sha256sum prints it), followed by those of its external data files where it has any."""
    structure_sha256: str
    """Of nodes, names, shapes, integer constants, inputs, outputs and opset; without weights, metadata and documentation."""
    weights_sha256: str
    """Of every floating-point tensor: name, type, shape and values, in the file's order."""


def digests(path: Path | str) -> Digests:
    """The digests of a file that the guard lets through. Raises InputRejected."""
    path = Path(path)
    whole = hashlib.sha256(path.read_bytes() if path.is_file() else b"")
    model = guard.parse(path)
    guard.check_structure(model)
    beside = external.files(model, path.parent)
    external.load(model, path.parent)
    for file in beside:
        whole.update(file.read_bytes())
    weights = hashlib.sha256()
    for tensor in external.tensors(model):
        if tensor.data_type in _FLOATS:
            weights.update(repr((tensor.name, tensor.data_type, list(tensor.dims))).encode())
            weights.update(numpy_helper.to_array(tensor).tobytes())
    for tensor in external.tensors(model):
        if tensor.data_type in _FLOATS:
            for field in (*_FIELDS, "data_location"):
                tensor.ClearField(field)
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    structure = hashlib.sha256(model.SerializeToString(deterministic=True))
    return Digests(whole.hexdigest(), structure.hexdigest(), weights.hexdigest())
