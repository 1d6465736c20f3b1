"""What goes into the loss of a batch besides the batch, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Phase:
    """Which terms the loss of an epoch has: decided in Python once an epoch, so that no branch of a step depends on a tensor."""

    robust: bool
    """Whether the loss is the robust one (eps has left zero) or the natural one."""
    tightness: bool = False
    balance: bool = False
    linear: bool = False
    """Whether the loss walks linear forms backwards (``Loss.linear``)."""

    @property
    def regularised(self) -> bool:
        return self.tightness or self.balance


@dataclass(frozen=True)
class Terms:
    """The loss of a batch, its terms (means) and its counts of correct and certified samples; zero where not computed."""

    loss: Float[Tensor, ""]
    natural: Float[Tensor, ""]
    robust: Float[Tensor, ""]
    tightness: Float[Tensor, ""]
    balance: Float[Tensor, ""]
    correct: Float[Tensor, ""]
    certified: Float[Tensor, ""]


@dataclass(frozen=True)
class Schedule:
    """The numbers that change from step to step, as tensors on the device, so that one compiled step serves the whole run."""

    eps: Float[Tensor, ""]
    """The radius, in the units of the input."""
    weight: Float[Tensor, ""]
    """The weight of the regularisers (lambda)."""
    kappa: Float[Tensor, ""]
    """The share of the natural loss."""
    progress: Float[Tensor, ""]
    """``eps / eps_max``."""
