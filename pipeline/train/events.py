"""The events of a training run, for its caller to print, plot or ignore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pipeline.core.network import Network
from pipeline.train.full_bn import Placement

Record = Mapping[str, int | float]
"""The figures of one epoch: see ``Epoch``."""


@dataclass(frozen=True)
class Started:
    """Before the first batch: the length of the run, where it resumes, and where BatchNorm goes."""

    epochs: int
    steps_per_epoch: int
    resumed_at: tuple[int, int] | None
    """The epochs already done and the batches done of the next one; None without a checkpoint."""
    placements: tuple[Placement, ...]
    history: tuple[Record, ...]
    """The records of the epochs already done."""

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class BatchDone:
    """After about every twentieth of an epoch: the position, and the mean loss of the epoch so far, still on the device."""

    epoch: int
    step: int
    """How many batches of the epoch are done."""
    eps: float
    """Of the last batch, as a fraction of the range of pixels."""
    loss: Float[Tensor, ""]


@dataclass(frozen=True)
class Epoch:
    """After each epoch: ``epoch, eps, lambda, lr, loss, natural, robust, tightness, balance, train_natural, train_certified``,
    ``held_natural, held_certified`` and ``seconds``.

    eps and lambda are those of the epoch's last batch. Accuracies are fractions: in training at the batch's own eps (a lower
    bound of certified accuracy, statistics of the batch), held out at the full eps in eval mode, by IBP without rounding.
    """

    record: Record


@dataclass(frozen=True)
class Fallback:
    """Once, where the gradients of compiled steps differ from those of eager ones: from here on steps are eager."""

    reason: str


@dataclass(frozen=True)
class Finished:
    """The trained Network in eval mode on the CPU, its BatchNorms folded or kept as the recipe says, and all records."""

    network: Network
    history: tuple[Record, ...]
    epoch: int
    """The epoch whose weights these are: the last, unless the recipe selects by the held-out part."""


Event = Started | BatchDone | Epoch | Fallback | Finished
