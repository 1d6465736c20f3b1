"""Weights beside the file: read only from the model's own folder, never through a link, never past what is there.

The rules are those of onnx's own security notes (containment, no symlink, one hard link), applied before anything is read.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx import helper

from pipeline.errors import InputRejected
from pipeline.graph.names import shown


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


def load(model: onnx.ModelProto, folder: Path) -> None:
    """Brings every external tensor of a model into the message. Raises InputRejected before reading what breaks a rule."""
    for tensor in tensors(model):
        if is_external(tensor):
            data = read(tensor, folder)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
            tensor.raw_data = data


def location(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """Where a tensor's bytes lie: file name, offset, length. Raises InputRejected if the entry contradicts the shape."""
    entries = {e.key: e.value for e in tensor.external_data}
    name = entries.get("location", "")
    needed = size(tensor)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", needed))
    except ValueError:
        raise InputRejected(
            f"Offsets are whole numbers; external tensor '{shown(tensor.name)}' has another one."
        ) from None
    if offset < 0 or length != needed:
        raise InputRejected(
            f"External data is as long as the tensor's shape says; '{shown(tensor.name)}' of shape {list(tensor.dims)} needs"
            f" {needed} bytes, its entry says {length} at offset {offset}. Export the model again."
        )
    return name, offset, length


def read(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """The bytes of one external tensor. Raises InputRejected for an escaping path, a link, or a file that is too short."""
    name, offset, length = location(tensor)
    parts = PurePosixPath(name).parts
    if not name or "\\" in name or ":" in name or "\0" in name or PurePosixPath(name).is_absolute() or ".." in parts:
        raise InputRejected(
            f"External data lies in the model's own folder; tensor '{shown(tensor.name)}' points to '{shown(name)}'."
            " Nothing was read. Save the model with its data beside it."
        )
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise InputRejected(
                f"External data is a file, not a symbolic link; '{shown(name)}' of tensor '{shown(tensor.name)}' is one."
                " Copy the real file beside the model (for Hugging Face: hf download ... --local-dir)."
            )
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        raise InputRejected(
            f"External data must be there; tensor '{shown(tensor.name)}' needs '{shown(name)}' beside the model."
        ) from None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise InputRejected(
                f"External data is a file of its own; '{shown(name)}' of tensor '{shown(tensor.name)}' has"
                f" {found.st_nlink} hard links. Copy it."
            )
        if offset + length > found.st_size:
            raise InputRejected(
                f"External data is complete; tensor '{shown(tensor.name)}' needs {length} bytes at {offset},"
                f" '{shown(name)}' has {found.st_size}. Copy it again."
            )
        file.seek(offset)
        return file.read(length)


def files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """The files that hold external data of a model, each once, in order of first use."""
    return list(dict.fromkeys(folder / location(t)[0] for t in tensors(model) if is_external(t)))
