"""Samples of several inputs: an npz archive with an array for each input, by its name, and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.data import npz
from pipeline.data.dataset import Dataset, make
from pipeline.data.source import Part, parse
from pipeline.errors import InputRejected, UsageError


def read(
    uri: str,
    part: Part | None,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    perturbed: str,
    constants: Mapping[str, np.ndarray],
    pixels: bool,
) -> Dataset:
    """A row a sample: the float32 inputs one behind the other, in the order of ``shapes``, those of one sample.

    ``constants`` are given to every sample alike. 8-bit values of the ``perturbed`` input become x/255 where they are ``pixels``.
    Raises UsageError for another source, InputRejected for an archive that lacks an input or holds others of another shape.
    """
    scheme, rest, notes = parse(uri)
    if scheme != "npz":
        raise UsageError(
            f"a model of several inputs takes its samples from an npz archive with an array for each input; received {uri!r}."
        )
    path = Path(rest)
    names = npz.members(path)
    part = part if part is not None and npz.find(names, "labels", part) else None
    said = npz.find(names, "labels", part)
    if said is None:
        raise InputRejected(f"{uri!r} holds no labels; its arrays are {sorted(names)[:8]}. Name them y or labels.")
    labels, columns = npz.read(path, said), []
    for name, shape in shapes.items():
        if name in constants:
            columns.append(
                np.broadcast_to(constants[name].astype(np.float32).reshape(1, -1), (len(labels), math.prod(shape)))
            )
            continue
        found = next((n for n in ((f"{name}_{part}", f"{part}_{name}") if part else (name,)) if n in names), None)
        if found is None:
            raise InputRejected(
                f"{uri!r} has no array for input {name[:60]!r}; its arrays are {sorted(names)[:8]}. Store one by that name, a "
                f"row for each sample, or give all samples the same: --constant {name[:60]}=VALUE."
            )
        columns.append(_rows(npz.read(path, found), shape, len(labels), name, uri, pixels=pixels and name == perturbed))
    told = (*notes, f"inputs {', '.join(shapes)} by their names; {perturbed} alone is perturbed")
    return make(np.concatenate(columns, axis=1), labels, uri=uri, part=part or "all", notes=told)


def _rows(values: np.ndarray, shape: tuple[int, ...], count: int, name: str, uri: str, *, pixels: bool) -> np.ndarray:
    if (
        len(values) != count
        or math.prod(values.shape[1:]) != math.prod(shape)
        or values.shape[1:] not in (shape, (math.prod(shape),))
    ):
        raise InputRejected(
            f"{uri!r}: input {name[:60]!r} takes {count} samples of shape {shape}, a row for each label; found "
            f"{values.shape}. Store it so."
        )
    rows = make(values, np.zeros(count, np.int64), uri=uri).images.reshape(count, -1)
    scaled = rows.dtype == np.uint8 and pixels and rows.max(initial=0) > 1
    return rows.astype(np.float32) / np.float32(255 if scaled else 1)
