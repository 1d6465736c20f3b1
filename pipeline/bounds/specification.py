"""What is asked of a network's outputs, sample by sample: linear forms over them, and which of these must be positive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.core.linear_form import LinearForm


@dataclass(frozen=True, eq=False)
class Specification:
    """The outputs that are unsafe: a disjunction of conjunctions of ``f(y) <= 0``, or ``f(y) < 0`` where ``strict``.

    A row is one such form, ``f(y) = sum_t weight_t y[index_t] + const`` over all outputs of a sample in order. No output of a
    region is unsafe once every conjunction has a row that is positive there, or never negative where it is strict. A conjunction
    has at least one row; of one that always holds it is a negative constant.
    """

    index: Int[Tensor, "rows batch terms"]
    weight: Float[Tensor, "rows batch terms"]
    """Float64; zero in a term that a row does not have."""
    const: Float[Tensor, "rows batch"]
    conjunction: Int[Tensor, "rows batch"] | None = None
    """The number of the conjunction, below the number of rows; -1 in a row that a sample does not have. None: each row is one."""
    strict: Bool[Tensor, "rows batch"] | None = None
    """None: no row is strict."""

    @classmethod
    def margins(cls, labels: Int[Tensor, " batch"], classes: int) -> Specification:
        """Another class than the label: one row ``z_y - z_j`` for every other class, each a conjunction by itself.

        Row ``j`` is about class ``j`` below the label, and about class ``j + 1`` from it on.
        """
        rows = torch.arange(classes - 1, device=labels.device)[:, None]
        others = rows + (rows >= labels)
        index = torch.stack([labels.expand_as(others), others], 2)
        weight = (1.0 - 2 * torch.arange(2, dtype=torch.float64, device=labels.device)).expand(index.shape)
        const = torch.zeros((), dtype=torch.float64, device=labels.device).expand(others.shape)
        return cls(index, weight, const)

    def __len__(self) -> int:
        return len(self.const)

    def __getitem__(self, at: Any) -> Specification:
        """Some of the rows, ``[rows]``, of some of the samples, ``[rows, samples]``."""
        return self._each(lambda part: part[at])

    def repeated(self, count: int) -> Specification:
        """All rows, ``count`` times over."""
        return self._each(lambda part: torch.cat([part] * count))

    def to(self, device: torch.device | str) -> Specification:
        """The same on a device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Specification:
        parts = ((field.name, getattr(self, field.name)) for field in fields(self))
        changed: dict[str, Any] = {name: part if part is None else change(part) for name, part in parts}
        return Specification(**changed)

    def form(self, outputs: int, dtype: torch.dtype = torch.float64) -> LinearForm:
        """The rows with a coefficient for each output: (rows, batch, outputs)."""
        coeff = self.weight.new_zeros(*self.const.shape, outputs, dtype=dtype)
        return LinearForm(coeff.scatter_add(2, self.index, self.weight.to(dtype)), self.const.to(dtype))

    def values(self, outputs: Float[Tensor, "batch outputs"]) -> Float[Tensor, "rows batch"]:
        """What the rows are at given outputs, in float64 and differentiable in them."""
        rows, batch, terms = self.index.shape
        picked = outputs.gather(1, self.index.transpose(0, 1).reshape(batch, -1)).double()
        return (picked.reshape(batch, rows, terms).transpose(0, 1) * self.weight).sum(2) + self.const

    def least(self, rows: Float[Tensor, "rows batch"], *, joint: bool = False) -> Float[Tensor, " batch"]:
        """The least conjunction, each counted as its largest row: positive where nothing is unsafe, NaN where a row is NaN.

        Where ``joint``, a conjunction counts as the sum of its rows' positive parts instead, which falls with each of them.
        """
        if self.conjunction is None:
            return (rows.clamp_min(0) if joint else rows).amin(0)
        of = torch.where(self.conjunction < 0, len(self), self.conjunction)
        start = rows.new_full((len(self) + 1, rows.shape[1]), torch.inf)
        rows, how = (rows.clamp_min(0), "sum") if joint else (rows, "amax")
        conjunctions = start.scatter_reduce(0, of, rows, how, include_self=False)
        return conjunctions[:-1].amin(0)
