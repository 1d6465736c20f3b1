"""External data: in which files it may be, and which of their bytes belong to which tensor.

The rules are those of onnx's security notes: paths within the model's folder here; no symlink, one hard link in ``model_file``.
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
"""Characters that no name may have: other systems read them as a folder or drive, ONNX Runtime as the mark of an address."""


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
    """Bytes of an element in raw data; 0 for strings and unknown types, which have none."""
    if data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return 0.5
    try:
        return 0 if data_type == onnx.TensorProto.STRING else helper.tensor_dtype_to_np_dtype(data_type).itemsize
    except (KeyError, TypeError):
        return 0


def size(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor according to its shape and type, whatever it contains."""
    return math.ceil(math.prod(tensor.dims) * item_size(tensor.data_type))


def load(model: onnx.ModelProto, beside: Mapping[str, bytes]) -> None:
    """Copy every external tensor into the message, out of ``beside``: the content of each external data file by path.

    Raises InputRejected for a file that is too short.
    """
    for tensor in tensors(model):
        if is_external(tensor):
            data = of(tensor, beside)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
            tensor.raw_data = data


def location(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """File name, offset and length of a tensor's bytes. Raises InputRejected if the entry contradicts the shape."""
    entries = {e.key: e.value for e in tensor.external_data}
    if unknown_keys := [e.key for e in tensor.external_data if not _KEYS.fullmatch(e.key)]:
        raise InputRejected(
            f"External data are told by location, offset, length and checksum; '{shown(tensor.name)}' tells"
            f" '{shown(unknown_keys[0])}'. Export the model again."
        )
    if len(entries) != len(tensor.external_data):
        raise InputRejected(
            f"External data are told once; of '{shown(tensor.name)}' a key stands there twice. Export the model again."
        )
    name = entries.get("location", "")
    expected = size(tensor)
    offset, length = (
        _whole(tensor, entries.get(key, str(usual))) for key, usual in (("offset", 0), ("length", expected))
    )
    if length != expected:
        raise InputRejected(
            f"External data is as long as the tensor's shape says; '{shown(tensor.name)}' of shape {list(tensor.dims)} needs"
            f" {expected} bytes, its entry says {length} at offset {offset}. Export the model again."
        )
    return name, offset, length


def _whole(tensor: onnx.TensorProto, written: str) -> int:
    # int() also accepts signs, spaces and digits of other scripts, which ONNX Runtime reads differently or not at all.
    if not re.fullmatch("[0-9]{1,18}", written, re.ASCII):
        raise InputRejected(
            f"Offsets and lengths are whole numbers in the digits 0 to 9; of external tensor '{shown(tensor.name)}' one is"
            f" '{shown(written)}'. Export the model again."
        )
    return int(written)


def data_files(model: onnx.ModelProto) -> dict[str, str]:
    """The external data files, in order of first use, each with the name of its first tensor.

    Raises InputRejected for a path that leaves the model's own folder.
    """
    files: dict[str, str] = {}
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
            files.setdefault(normal_path(name), tensor.name)
    return files


def normal_path(name: str) -> str:
    """A path in its normal form: ``./a//b`` is ``a/b``."""
    return str(PurePosixPath(name))


def of(tensor: onnx.TensorProto, beside: Mapping[str, bytes]) -> bytes:
    """The bytes of one external tensor; ``beside`` as for ``load``. Raises InputRejected for a file that is too short."""
    name, offset, length = location(tensor)
    data = beside[normal_path(name)]
    if offset + length > len(data):
        raise InputRejected(
            f"External data is complete; tensor '{shown(tensor.name)}' needs {length} bytes at {offset},"
            f" '{shown(name)}' has {len(data)}. Copy it again."
        )
    return data[offset : offset + length]
