"""How much a stranger's file may ask for: settings of their own, each checked before what it bounds is allocated."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, fields

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Limits:
    """In bytes, unless said otherwise; the defaults stand here. ``[limits]`` of ``pipeline.toml`` sets others."""

    model_bytes: int = 2 * GIB
    """Of an ONNX file: more than protobuf reads."""
    nodes: int = 100_000
    """Nodes of a graph; as many initialisers."""
    tensor_elements: int = 2**29
    """Numbers in one tensor, or in one sample of an input."""
    weights_bytes: int = 8 * GIB
    """Of all tensors of a file together, those beside it included."""
    value_bytes: int = GIB
    """Of one computed value, at the few samples with which a file is looked into."""
    generated_bytes: int = 256 * MIB
    """Of one value that a node makes out of nothing: ConstantOfShape, Expand, Tile, Range, ..."""
    runtime_bytes: int = 8 * GIB
    """That ONNX Runtime may take when it first runs a file. Settled once a process."""
    data_bytes: int = 16 * GIB
    """Of one array of data, or of all pictures of a folder."""
    archive_ratio: int = 200
    """By how much a member of an npz archive of more than 64 MiB may expand."""
    pixels: int = 64 * MIB
    """Of one picture: 8192 x 8192."""
    property_bytes: int = 64 * MIB
    """Of the text of a VNN-LIB property."""
    report_bytes: int = 256 * MIB
    """Of a report.json that is read."""
    attack_steps: int = 10_000
    """Not bytes: of PGD over all its starts, as a report that is proved again states it."""
    domains: int = 20_000
    """Not bytes: parts that branch and bound may divide a region into where a report is proved again."""


NAMES = tuple(field.name for field in fields(Limits))
_CURRENT: ContextVar[Limits] = ContextVar("limits")


def limits() -> Limits:
    """Those that hold now."""
    return _CURRENT.get(Limits())


def hold(to: Limits) -> None:
    """From here on these hold, in this thread."""
    _CURRENT.set(to)


def raised(name: str) -> str:
    """How a user allows more, as the end of a message."""
    return f"If you trust it, allow more: {name} under [limits] in pipeline.toml."
