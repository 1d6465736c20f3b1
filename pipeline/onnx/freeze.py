"""Weights that are inputs too: from IR version 4 on a caller may give them other values than those in the file."""

from __future__ import annotations

import onnx

from pipeline.errors import InputRejected
from pipeline.onnx import external
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import listed

FIRST_OVERRIDABLE = 4
"""Before this IR version every initialiser had to be listed as an input, and a runtime takes it for a constant."""


def overridable(model: onnx.ModelProto) -> tuple[str, ...]:
    """The initialisers that a caller may override, by name in the file (ONNX IR specification, "Graphs": default values)."""
    if model.ir_version < FIRST_OVERRIDABLE:
        return ()
    held = {t.name for t in model.graph.initializer}
    return tuple(port.name for port in model.graph.input if port.name in held)


def assumption(model: onnx.ModelProto) -> str | None:
    """What a certificate of such a file rests on; None where no caller can override anything."""
    names = overridable(model)
    if not names:
        return None
    return (
        f"No caller overrides the weights that are inputs too ({listed(names, 3)}): they have the values stored in the file. "
        "`pipeline inspect --freeze` writes a copy in which they are fixed."
    )


def frozen(file: ModelFile) -> tuple[bytes, tuple[str, ...]]:
    """The file with its overridable weights fixed at the stored values and data from beside it taken in; and their names.

    Raises InputRejected for a file that becomes too large for one message.
    """
    model, names = file.message(), overridable(file.model)
    external.load(model, file.beside)
    kept = [port for port in model.graph.input if port.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    try:
        return model.SerializeToString(), names
    except ValueError:  # how protobuf says that a message exceeds 2 GiB
        raise InputRejected(
            "A model of more than 2 GiB cannot be written as one file. Fix its inputs where it is exported."
        ) from None
