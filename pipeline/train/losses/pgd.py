"""The loss of adversarial training: that of adversarial points alone."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.train.losses.loss import Loss, LossInput, loss


@loss("pgd")
class Adversarial(Loss):
    """``CE(z')`` with logits ``z'`` of adversarial points (Madry et al., arXiv 1706.06083, eq. 2.1)."""

    settings = ("adversary_steps", "adversary_step")
    attacks, bounds = True, False

    def __call__(self, samples: LossInput, *, linear: bool) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        attacked = F.cross_entropy(samples.logits(), samples.labels, reduction="sum")
        return attacked, attacked.detach() * 0
