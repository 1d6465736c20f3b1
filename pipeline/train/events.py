"""What a training run tells while it runs; whoever listens prints, plots or ignores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pipeline.core.network import Network
from pipeline.train.full_bn import Placement

Record = Mapping[str, int | float]
"""One epoch in numbers: see ``Epoch``."""


@dataclass(frozen=True)
class Started:
    """Before the first batch: how long the run is, where it goes on, and what becomes of each layer."""

    epochs: int
    steps_per_epoch: int
    resumed_at: tuple[int, int] | None
    """Epochs and batches of the next one already done, if a checkpoint was found."""
    placements: tuple[Placement, ...]
    history: tuple[Record, ...]
    """The epochs done before."""

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class BatchDone:
    """After some batches: where the run is, and the mean loss of the epoch so far, still on the device."""

    epoch: int
    step: int
    eps: float
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
    """Once, where compiled steps turned out not to compute what eager ones do, and eager ones are taken instead."""

    reason: str


@dataclass(frozen=True)
class Finished:
    """The trained Network, BatchNorms folded or kept as asked, in eval mode on the CPU, and all epochs."""

    network: Network
    history: tuple[Record, ...]
    epoch: int
    """The epoch whose weights these are: the last, unless the held-out part was to choose."""


Event = Started | BatchDone | Epoch | Fallback | Finished
