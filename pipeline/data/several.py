"""Samples for models of several inputs: an npz archive with labels, and an array for each input under its name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.data import npz
from pipeline.data.dataset import EXACT_IN_FLOAT32, Dataset, make
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
    whole: Mapping[str, str] | None = None,
) -> Dataset:
    """A Dataset with one flat row for each sample: its inputs, concatenated in the order of ``shapes``.

    ``shapes`` are those of one sample of each input; ``constants`` are the same for every sample; ``whole`` are the types of
    inputs of whole numbers. 8-bit values of the ``perturbed`` input become x/255 where they are ``pixels``. Raises UsageError for
    a source that is no npz archive, InputRejected for an archive that lacks an input or has one of another shape.
    """
    scheme, rest, notes = parse(uri)
    if scheme != "npz":
        raise UsageError(
            f"a model of several inputs takes its samples from an npz archive with an array for each input; received {uri!r}."
        )
    path = Path(rest)
    names = npz.members(path)
    part = part if part is not None and npz.find(names, "labels", part) else None
    label_name = npz.find(names, "labels", part)
    if label_name is None:
        raise InputRejected(f"{uri!r} holds no labels; its arrays are {sorted(names)[:8]}. Name them y or labels.")
    labels, columns = npz.read(path, label_name), []
    for name, shape in shapes.items():
        if name in constants:
            columns.append(
                np.broadcast_to(constants[name].astype(np.float32).reshape(1, -1), (len(labels), math.prod(shape)))
            )
            continue
        member = next((n for n in ((f"{name}_{part}", f"{part}_{name}") if part else (name,)) if n in names), None)
        if member is None:
            raise InputRejected(
                f"{uri!r} has no array for input {name[:60]!r}; its arrays are {sorted(names)[:8]}. Store one by that name, a "
                f"row for each sample, or give all samples the same: --constant {name[:60]}=VALUE."
            )
        values = npz.read(path, member)
        _require_rows(values, shape, len(labels), name, uri)
        if whole and name in whole:
            columns.append(_whole(values, whole[name], name, uri))
        else:
            columns.append(_numbers(values, uri, pixels=pixels and name == perturbed))
    notes = (*notes, f"inputs {', '.join(shapes)} by their names; {perturbed} alone is perturbed")
    return make(np.concatenate(columns, axis=1), labels, uri=uri, part=part or "all", notes=notes)


def _require_rows(values: np.ndarray, shape: tuple[int, ...], count: int, name: str, uri: str) -> None:
    """Raise InputRejected for anything but a row of ``shape`` for each of ``count`` samples."""
    if (
        len(values) != count
        or math.prod(values.shape[1:]) != math.prod(shape)
        or values.shape[1:] not in (shape, (math.prod(shape),))
    ):
        raise InputRejected(
            f"{uri!r}: input {name[:60]!r} takes {count} samples of shape {shape}, a row for each label; found "
            f"{values.shape}. Store it in that shape."
        )


def _whole(values: np.ndarray, dtype: str, name: str, uri: str) -> np.ndarray:
    """Whole numbers as float32. Raises InputRejected where their type, or float32, cannot hold one."""
    with np.errstate(all="ignore"):
        held = values.astype(dtype)
    if (
        values.dtype.kind not in "iub"
        or not np.array_equal(held, values)
        or (np.abs(held.astype(float)) > EXACT_IN_FLOAT32).any()
    ):
        raise InputRejected(
            f"{uri!r}: input {name[:60]!r} takes whole numbers of type {dtype} between -2^24 and 2^24; found {values.dtype} from "
            f"{values.min():.9g} to {values.max():.9g}. Store them as {dtype}."
        )
    return held.reshape(len(held), -1).astype(np.float32)


def _numbers(values: np.ndarray, uri: str, *, pixels: bool) -> np.ndarray:
    count = len(values)
    rows = make(values, np.zeros(count, np.int64), uri=uri).images.reshape(count, -1)
    scaled = rows.dtype == np.uint8 and pixels and rows.max(initial=0) > 1
    return rows.astype(np.float32) / np.float32(255 if scaled else 1)
