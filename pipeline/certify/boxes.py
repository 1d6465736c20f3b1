"""Boxes of inputs under proof, and how a flat vector becomes the inputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.core.network import Network
from pipeline.vnnlib import Case, above64, below64, nearest32


@dataclass(frozen=True, eq=False)
class Subdomain:
    """A part of a case's box, ends rounded outward, and the conjunctions that are not refuted over it."""

    case: int
    lower: np.ndarray
    upper: np.ndarray
    open: tuple[int, ...]


def whole(index: int, case: Case) -> Subdomain:
    """The box of a case around every real point of it and around the float32 that a deployment makes of that point.

    Rounding to nearest is monotone, so ``[min(l, fl(l)), max(u, fl(u))]`` holds both.
    """
    lower = np.array([min(below64(v), nearest32(v)) for v in case.lower])
    upper = np.array([max(above64(v), nearest32(v)) for v in case.upper])
    return Subdomain(index, lower, upper, tuple(range(len(case.unsafe))))


def inputs_of(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """A batch of flat vectors, cut and shaped into the inputs of a network in the file's order."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    return [part.reshape(len(flat), *shape) for part, shape in zip(flat.split(sizes, 1), shapes, strict=True)]


def outputs_of(network: Network, xs: Sequence[Tensor]) -> list[Tensor]:
    """All outputs of a network, as a list."""
    y = network(*xs)
    return list(y) if isinstance(y, tuple) else [y]
