"""How the layout of an executed value differs from that of the file's value that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class View:
    """The arrangement of an executed value, whose numbers are those of the file's value.

    ``perm``: axis ``i`` of the executed value is axis ``perm[i]`` of the file's. ``swap``: its last two axes are exchanged, at
    whatever rank. ``flat``: equal in row-major order, perhaps in another shape. ``blocked``: channels in blocks (NCHWc).
    """

    perm: tuple[int, ...] | None = None
    swap: bool = False
    flat: bool = False
    blocked: bool = False

    @property
    def plain(self) -> bool:
        """Whether both are the same array, in shape and order."""
        return self == AS_IT_IS

    def at_rank(self, rank: int) -> View:
        """The same view with ``swap`` as a permutation of that many axes."""
        if not self.swap:
            return self
        return View.of((*range(rank - 2), rank - 1, rank - 2)) if rank >= 2 else replace(self, swap=False)

    @classmethod
    def of(cls, perm: Sequence[int]) -> View:
        """The view of a permutation; ``AS_IT_IS`` for the identity."""
        return AS_IT_IS if tuple(perm) == tuple(range(len(perm))) else cls(perm=tuple(perm))

    def before_executed(self, perm: Sequence[int]) -> View | None:
        """The view of the input of an executed Transpose; None where this view, or ``perm``, is no permutation."""
        view = self.at_rank(len(perm))
        if view.flat or view.blocked or sorted(perm) != list(range(len(perm))):
            return None
        now, axes = view.perm or tuple(range(len(perm))), [0] * len(perm)
        for axis, source in enumerate(perm):
            axes[source] = now[axis]
        return View.of(axes)

    def before_file(self, perm: Sequence[int]) -> View | None:
        """The view of the input of a Transpose of the file; None where this view is no permutation."""
        view = self.at_rank(len(perm))
        if view.flat or view.blocked:
            return None
        return View.of([perm[axis] for axis in view.perm or range(len(perm))])

    def apply(self, array: np.ndarray) -> np.ndarray | None:
        """A constant of the file under this view; None where a blocked view, or one of another rank, has no such array."""
        view = self.at_rank(array.ndim)
        if view.blocked:
            return None
        if view.flat:
            return array.reshape(-1)
        if view.perm is None:
            return array
        return array.transpose(view.perm) if len(view.perm) == array.ndim else None


AS_IT_IS = View()
SWAPPED = View(swap=True)
FLAT = View(flat=True)
BLOCKED = View(blocked=True)


def blocks(filters: np.ndarray, block: int, *, inputs: bool) -> np.ndarray:
    """Filters ``(O, I, *kernel)`` as MLAS holds them, padded with zeros: ``OIHWBiBo``, or ``OIHWBo`` without ``inputs``."""
    out, into, *kernel = filters.shape
    rows, columns = -(-out // block) * block, -(-into // block) * block if inputs else into
    padded = np.zeros((rows, columns, *kernel), filters.dtype)
    padded[:out, :into] = filters
    if not inputs:
        split = padded.reshape(rows // block, block, columns, *kernel)
        return np.moveaxis(split, 1, -1).reshape(-1)
    split = padded.reshape(rows // block, block, columns // block, block, *kernel)
    # (O/B, Bo, I/B, Bi, H, W) -> (O/B, I/B, H, W, Bi, Bo)
    return np.moveaxis(split, (3, 1), (-2, -1)).reshape(-1)
