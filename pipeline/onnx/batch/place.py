"""Where the samples of a value stand: which of its axes holds them, and what that axis holds beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.onnx.ir import Node


class Lost(Exception):
    """Why samples, or what depends on their number, cannot be followed any further."""


@dataclass(frozen=True)
class Place:
    """An axis of ``outer * N * inner`` entries: sample ``n`` has those whose index is ``(o N + n) inner + i``."""

    axis: int
    outer: int = 1
    inner: int = 1

    def at(self, axis: int) -> Place:
        return replace(self, axis=axis)

    @property
    def alone(self) -> bool:
        """Whether the axis holds one entry for each sample."""
        return self.outer == self.inner == 1


def axis_of(node: Node, default: int, rank: int) -> int:
    """The attribute ``axis`` from the front."""
    return int(node.attributes.peek("axis", default)) % rank


def resized(
    shape: Sequence[int], place: Place | None, target: Sequence[tuple[int, int]], allowzero: bool = False
) -> tuple[Place | None, tuple[int, ...]]:
    """Where samples stand after a Reshape, and the shape of one sample's share of its result.

    ``shape``: of one sample's share of its input; ``target``: each entry as ``(base, slope)``, ``base + slope N``; 0 copies a
    size, -1 is what is left. Raises Lost where the samples are not whole factors of one axis any more.
    """
    entries = [
        (shape[i], place is not None and place.axis == i) if (b, s) == (0, 0) and not allowzero else (b, None)
        for i, (b, s) in enumerate(target)
    ]
    sizes: list[tuple[int, bool]] = []
    for (size, copied), (base, slope) in zip(entries, target, strict=True):
        if slope and (base or slope < 0):
            raise Lost("a size of its target is another function of the batch size than a multiple of it")
        sizes.append((slope, True) if slope else (size, bool(copied)))
    total, known = math.prod(shape), math.prod(size for size, _ in sizes if size != -1)
    held = any(has for _, has in sizes)
    if any(size == -1 for size, _ in sizes):
        if not known or total % known:
            raise Lost("its target does not fit the entries of one sample")
        # What is left holds the samples where nothing else does.
        sizes = [(total // known, place is not None and not held) if s == -1 else (s, has) for s, has in sizes]
    shape_after = tuple(size for size, _ in sizes)
    axes = [i for i, (_, has) in enumerate(sizes) if has]
    if math.prod(shape_after) != total or len(axes) != (place is not None):
        raise Lost("its target names no axis for the samples, or fits one number of samples alone")
    if place is None:
        return None, shape_after
    # The samples are a factor of the flat index: what is slower must stay slower, what is faster faster.
    (axis,) = axes
    slower = math.prod(shape[: place.axis]) * place.outer
    before = math.prod(shape_after[:axis])
    outer = slower // before if before else 0
    if not outer or slower % before or shape_after[axis] % outer:
        raise Lost("it mixes the samples with other axes beyond following")
    return Place(axis, outer, shape_after[axis] // outer), shape_after
