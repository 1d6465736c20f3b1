"""Weights beside the file: where they may lie, and which bytes of which file are which tensor's.

The rules are those of onnx's own security notes (containment here; no symlink, one hard link in ``model_file``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import onnx
from onnx import helper

from pipeline.errors import InputRejected
from pipeline.onnx.names import shown

_KEYS = re.compile("location|offset|length|checksum|prepacked_[0-9]+", re.ASCII)
_NEVER = "\\:\0*"
"""In no name: what other systems read as a folder or a drive, and the mark of an address in memory that ONNX Runtime follows."""


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the file: initialisers first, then those inside nodes."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def item_size(data_type: int) -> int | float:
    """Bytes an element takes in raw data; 0 where it has none (strings, unknown types)."""
    if data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return 0.5
    try:
        return 0 if data_type == onnx.TensorProto.STRING else helper.tensor_dtype_to_np_dtype(data_type).itemsize
    except (KeyError, TypeError):
        return 0


def size(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor of its shape takes, whatever it holds."""
    return math.ceil(math.prod(tensor.dims) * item_size(tensor.data_type))


def load(model: onnx.ModelProto, beside: Mapping[str, bytes]) -> None:
    """Brings every external tensor of a model into the message. Raises InputRejected for a file that is too short."""
    for tensor in tensors(model):
        if is_external(tensor):
            data = of(tensor, beside)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
            tensor.raw_data = data


def location(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """Where a tensor's bytes lie: file name, offset, length. Raises InputRejected if the entry contradicts the shape."""
    entries = {e.key: e.value for e in tensor.external_data}
    if odd := [e.key for e in tensor.external_data if not _KEYS.fullmatch(e.key)]:
        raise InputRejected(
            f"External data are told by location, offset, length and checksum; '{shown(tensor.name)}' tells"
            f" '{shown(odd[0])}'. Export the model again."
        )
    if len(entries) != len(tensor.external_data):
        raise InputRejected(
            f"External data are told once; of '{shown(tensor.name)}' a key stands there twice. Export the model again."
        )
    name = entries.get("location", "")
    needed = size(tensor)
    offset, length = (
        _whole(tensor, entries.get(key, str(usual))) for key, usual in (("offset", 0), ("length", needed))
    )
    if length != needed:
        raise InputRejected(
            f"External data is as long as the tensor's shape says; '{shown(tensor.name)}' of shape {list(tensor.dims)} needs"
            f" {needed} bytes, its entry says {length} at offset {offset}. Export the model again."
        )
    return name, offset, length


def _whole(tensor: onnx.TensorProto, written: str) -> int:
    # What int() takes besides, such as signs, spaces and digits of other scripts, ONNX Runtime reads otherwise or not at all.
    if not re.fullmatch("[0-9]{1,18}", written, re.ASCII):
        raise InputRejected(
            f"Offsets and lengths are whole numbers in the digits 0 to 9; of external tensor '{shown(tensor.name)}' one is"
            f" '{shown(written)}'. Export the model again."
        )
    return int(written)


def places(model: onnx.ModelProto) -> dict[str, str]:
    """The files that hold external data, in order of first use, each with the first tensor in it.

    Raises InputRejected for a path that leaves the model's own folder.
    """
    found: dict[str, str] = {}
    for tensor in tensors(model):
        if is_external(tensor):
            name = location(tensor)[0]
            parts = PurePosixPath(name).parts
            outside = not parts or PurePosixPath(name).is_absolute() or ".." in parts or name.endswith("/")
            if outside or any(character in name for character in _NEVER):
                raise InputRejected(
                    f"External data lies in the model's own folder; tensor '{shown(tensor.name)}' points to '{shown(name)}'."
                    " Nothing was read. Save the model with its data beside it."
                )
            found.setdefault(place(name), tensor.name)
    return found


def place(name: str) -> str:
    """One spelling of a file's place: ``./a//b`` is ``a/b``."""
    return str(PurePosixPath(name))


def of(tensor: onnx.TensorProto, beside: Mapping[str, bytes]) -> bytes:
    """The bytes of one external tensor, out of the files beside the model. Raises InputRejected if they end before it."""
    name, offset, length = location(tensor)
    data = beside[place(name)]
    if offset + length > len(data):
        raise InputRejected(
            f"External data is complete; tensor '{shown(tensor.name)}' needs {length} bytes at {offset},"
            f" '{shown(name)}' has {len(data)}. Copy it again."
        )
    return data[offset : offset + length]
