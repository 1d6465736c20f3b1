"""Models of several inputs: which input is perturbed, and where the others come from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from pipeline.core.fixed_integers import IntegerPart, integer_part
from pipeline.core.joined import Joined
from pipeline.core.network import Network, Port
from pipeline.data import Dataset, load, npz, several
from pipeline.data.source import Part
from pipeline.errors import InputRejected, UsageError, out_of_memory
from pipeline.onnx.names import shown
from pipeline.settings import Settings


def joined_of(network: Network, settings: Settings) -> Joined | None:
    """How several inputs are joined into one row; None for a network of one input.

    Raises UsageError (2) where settings do not say which input is perturbed and where the others come from, InputRejected (3) for
    inputs whose samples have no fixed size, or whose type cannot be read with each sample.
    """
    names = {port.name for port in network.inputs}
    if unknown := sorted({*settings.constants, *([settings.input] if settings.input else [])} - names):
        raise UsageError(f"the inputs of this file are {_listed(network)}; received {shown(unknown[0], 60)!r}.")
    if len(network.inputs) == 1:
        if settings.constants:
            raise UsageError(
                "--constant is for files of several inputs; the only input of this file is perturbed. Leave --constant out."
            )
        return None
    if settings.mean is not None:
        raise UsageError(
            "--mean and --std are of a model with one input; put the normalisation into the file, or into the data."
        )
    for port in network.inputs:
        if None in port.shape[1:]:
            raise InputRejected(
                f"the size of one sample must be fixed; input {shown(port.name)!r} has shape {list(port.shape)}. Export the "
                "model at the size it is used with."
            )
    constants = {port.name: _constant(port, settings) for port in network.inputs if port.name in settings.constants}
    variable = [port for port in network.inputs if port.name not in constants]
    perturbed = settings.input or (variable[0].name if len(variable) == 1 else None)
    if perturbed is None or perturbed in constants:
        raise UsageError(
            f"this file has {len(network.inputs)} inputs, {_listed(network)}, and one is perturbed: say --input NAME. The others "
            "come with each sample, from arrays of the npz under their names, or are said once: --constant NAME=VALUE."
        )
    whole = [port.name for port in variable if port.name != perturbed and not port.dtype.is_floating_point]
    for port in variable:
        if port.dtype != torch.float32 and port.name not in whole:
            raise InputRejected(
                f"an input that is perturbed must be float32, one read with each sample that or whole numbers; input "
                f"{shown(port.name)!r} is {str(port.dtype).removeprefix('torch.')}: say it once for all samples, --constant "
                f"{shown(port.name)}=VALUE."
            )
    other = {port.name for port in network.inputs if port.dtype != torch.float32}
    return Joined(
        network.inputs,
        perturbed,
        {name: value for name, value in constants.items() if name in other},
        {name: value for name, value in constants.items() if name not in other},
        integer_part(network, whole) if whole else None,
    )


def load_for(joined: Joined | None, uri: str, part: Part | None, settings: Settings) -> Dataset:
    """A part of the data for a model, or all data where ``part`` is None."""
    if joined is None:
        return load(uri, part=part, download=settings.download)
    data = several.read(
        uri,
        part,
        {**joined.shapes, **joined.whole},
        perturbed=joined.perturbed,
        constants=joined.alike,
        whole={p.name: str(p.dtype).removeprefix("torch.") for p in joined.ports if p.name in joined.whole},
        pixels=settings.range is None and not settings.by_feature,
    )
    if joined.integers is not None:
        _require_entries(joined.integers, data.images[:, -joined.integers.size :])
    return data


def _require_entries(part: IntegerPart, numbers: np.ndarray) -> None:
    """Raise InputRejected for indices without an entry in the file."""
    try:
        part(torch.from_numpy(np.ascontiguousarray(numbers)))
    except (IndexError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        names = ", ".join(shown(p.name, 60) for p in part.ports)
        raise InputRejected(
            f"Whole numbers of a sample are indices that the file has entries for; input {names} holds others: {error}. Number "
            "them as in training."
        ) from None


def _constant(port: Port, settings: Settings) -> np.ndarray:
    """A constant input, in its own type: (1, *shape). Raises UsageError, InputRejected."""
    stated, shape = settings.constants[port.name], tuple(d or 1 for d in port.shape[1:])
    dtype = torch.empty(0, dtype=port.dtype).numpy().dtype
    if isinstance(stated, str):
        path = Path(stated.removeprefix("npz:"))
        names = npz.members(path)
        member = port.name if port.name in names else next(iter(names), "") if len(names) == 1 else ""
        if not stated.startswith("npz:") or not member:
            raise UsageError(
                f"--constant {shown(port.name)}=VALUE is a number, one for each entry, or npz:FILE with an array of that name; "
                f"received {stated[:60]!r}."
            )
        values = npz.read(path, member)
    else:
        values = np.asarray(stated, np.float64)
    if values.size not in (1, math.prod(shape)):
        raise UsageError(
            f"input {shown(port.name)!r} takes {math.prod(shape)} numbers for a sample; --constant gives {values.size}."
        )
    with np.errstate(all="ignore"):
        constant = np.broadcast_to(values.reshape(-1), math.prod(shape)).astype(dtype)
    exact = np.array_equal(
        constant.astype(np.float64), np.broadcast_to(values.reshape(-1).astype(np.float64), constant.shape)
    )
    if not (exact or (dtype.kind == "f" and np.isfinite(constant).all())):
        raise UsageError(
            f"input {shown(port.name)!r} is {dtype}, which cannot hold the value of --constant; correct the value."
        )
    return constant.reshape(1, *shape)


def _listed(network: Network) -> str:
    def one(port: Port) -> str:
        shape = " x ".join("n" if d is None else str(d) for d in port.shape)
        return f"{shown(port.name)} ({str(port.dtype).removeprefix('torch.')}, {shape})"

    return ", ".join(map(one, network.inputs))
