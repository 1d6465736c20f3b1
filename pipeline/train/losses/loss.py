"""The interface of a loss: a function of the samples of a batch after one walk, and its demands on that walk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds import walk
from pipeline.bounds.margins import Head, lockstep_margins
from pipeline.core.interval import Interval, Lockstep
from pipeline.core.network import Network
from pipeline.train.hyperparameters import Recipe


@dataclass(frozen=True, eq=False)
class LossInput:
    """Some samples of a batch, as a loss reads them."""

    top: Head
    """The network in training, under the statistics of the clean batch, up to its logits."""
    points: Float[Tensor, " batch *features"]
    """The inputs of the walk: the samples, or adversarial points (``Loss.attacks``)."""
    box: Interval
    """The inputs that the threat model allows."""
    labels: Int[Tensor, " batch"]
    values: Sequence[Lockstep | Tensor | None]
    """The values of ``points`` and the boxes of ``box`` at every node; empty where the loss reads no bounds."""
    progress: Float[Tensor, ""]
    """``eps / eps_max``, in [0, 1]."""
    teacher: Float[Tensor, "batch classes"] | None = None
    """The logits of a teacher at the samples themselves, where the loss reads them (``Loss.taught``)."""

    def margins(self) -> Float[Tensor, "rows batch"]:
        """Lower bounds of ``z_y - z_j`` over the box, by IBP."""
        return lockstep_margins(self.top, self.values, self.labels)

    def logits(self) -> Float[Tensor, "batch classes"]:
        """The logits of ``points``."""
        if not self.values:
            return logits(self.top, self.points)
        value = self.values[self.top.index]
        assert isinstance(value, Lockstep)
        return value.clean.flatten(1)


class Loss(ABC):
    """A robust loss of a network under a recipe."""

    settings: ClassVar[tuple[str, ...]] = ()
    """The fields of ``Recipe`` that it reads; a recipe whose loss does not read a field must leave it at its default."""
    attacks: ClassVar[bool] = False
    """Whether ``LossInput.points`` are adversarial points."""
    taught: ClassVar[bool] = False
    """Whether it reads ``LossInput.teacher``."""
    bounds: ClassVar[bool] = True
    """Whether it reads bounds; without them, and without regularisers, boxes are not walked."""

    def __init__(self, network: Network, recipe: Recipe):
        self.network, self.recipe = network, recipe

    def linear(self, progress: float) -> bool:
        """Whether it walks linear forms backwards (CROWN) at this ``eps / eps_max``."""
        return False

    @abstractmethod
    def __call__(self, samples: LossInput, *, linear: bool) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss summed over the samples, and how many of them the bounds certify (zero without bounds).

        ``linear``: whether ``Loss.linear`` holds for any batch of the epoch.
        """


L = TypeVar("L", bound=type[Loss])
LOSSES: dict[str, type[Loss]] = {}


def loss(name: str) -> Callable[[L], L]:
    """Register a loss under the name that recipes use. Raises KeyError on a duplicate."""

    def register(kind: L) -> L:
        if name in LOSSES:
            raise KeyError(f"a loss has one class; {name} has {LOSSES[name].__name__} already")
        LOSSES[name] = kind
        return kind

    return register


def robust_cross_entropy(margins: Float[Tensor, "rows batch"]) -> Float[Tensor, ""]:
    """``log(1 + sum_j exp(-m_j))``, the cross-entropy of the logits ``[0, -m_1, ..., -m_(K-1)]`` with label 0, summed."""
    return torch.logsumexp(F.pad(-margins, (0, 0, 1, 0)), 0).sum()


def logits(top: Head, x: Tensor) -> Float[Tensor, "batch classes"]:
    """The logits of points, by a walk over tensors."""
    return walk.forward(top.plan, [x], _no_rule)[top.index].flatten(1)


def _no_rule(*_: object) -> None:
    raise AssertionError("a walk over tensors asks for no rule")
