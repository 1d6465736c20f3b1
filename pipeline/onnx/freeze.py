"""Weights that are also inputs: from IR version 4 on a caller may override their values in the file."""

from __future__ import annotations

import onnx

from pipeline.errors import InputRejected
from pipeline.onnx import external
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import listed

FIRST_OVERRIDABLE = 4
"""Before this IR version every initialiser had to be listed as an input, and a runtime treats it as a constant."""


def overridable(model: onnx.ModelProto) -> tuple[str, ...]:
    """The initialisers that a caller may override, by name in the file (ONNX IR specification, "Graphs": default values)."""
    if model.ir_version < FIRST_OVERRIDABLE:
        return ()
    initialisers = {t.name for t in model.graph.initializer}
    return tuple(port.name for port in model.graph.input if port.name in initialisers)


def assumption(model: onnx.ModelProto) -> str | None:
    """The assumption of a certificate of such a file, as a sentence; None where no caller can override anything."""
    names = overridable(model)
    if not names:
        return None
    return (
        f"No caller overrides the weights that are inputs too ({listed(names, 3)}): they have the values stored in the file. "
        "`pipeline inspect --freeze` writes a copy in which they are fixed."
    )


def freeze_inputs(file: ModelFile) -> tuple[bytes, tuple[str, ...]]:
    """The file with its overridable weights fixed at the stored values and its external data included; and their names.

    Raises InputRejected for a file that becomes too large for one message.
    """
    model, names = file.message(), overridable(file.model)
    external.load(model, file.beside)
    inputs = [port for port in model.graph.input if port.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    try:
        return model.SerializeToString(), names
    except ValueError:  # protobuf: the message exceeds 2 GiB
        raise InputRejected(
            "A model of more than 2 GiB cannot be written as one file. Fix its inputs where it is exported."
        ) from None
