"""Digests of a model: of the delivered bytes, of the graph without its weights, of the weights alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from pipeline.onnx import external

HEAD = b"pipeline model with external data, version 2\n"
_FIELDS = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data", "external_data")
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Digests:
    """Hexadecimal SHA-256 each."""

    sha256: str
    """Of the file's bytes, as sha256sum prints it; with external data, of ``HEAD`` and then, for each file, its length and its
    bytes, so that the same bytes divided into other files have another digest."""
    structure_sha256: str
    """Of nodes, names, shapes, integer constants, inputs, outputs and opset; without weights, metadata and documentation."""
    weights_sha256: str
    """Of every floating-point tensor: name, type, shape and values, in the file's order."""
    joined_sha256: str
    """What older reports call ``sha256``: of the bytes of all files, one after the other."""


def sha256(content: bytes) -> str:
    """Hexadecimal, as sha256sum prints it."""
    return hashlib.sha256(content).hexdigest()


def digests(content: bytes, beside: Iterable[bytes], model: onnx.ModelProto) -> Digests:
    """The digests of a file, the external data files ``beside`` it, and ``model``, the parsed model with external data loaded."""
    parts = [content, *beside]
    joined, whole = hashlib.sha256(), hashlib.sha256(HEAD)
    for part in parts:
        joined.update(part)
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    alone = joined if len(parts) == 1 else whole
    weights = hashlib.sha256()
    for tensor in external.tensors(model):
        if tensor.data_type in _FLOATS:
            weights.update(repr((tensor.name, tensor.data_type, list(tensor.dims))).encode())
            weights.update(numpy_helper.to_array(tensor).tobytes())
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in external.tensors(bare):
        if tensor.data_type in _FLOATS:
            for field in (*_FIELDS, "data_location"):
                tensor.ClearField(field)
    bare.ClearField("metadata_props")
    bare.ClearField("doc_string")
    structure = sha256(bare.SerializeToString(deterministic=True))
    return Digests(alone.hexdigest(), structure, weights.hexdigest(), joined.hexdigest())
