"""The loss of MTL-IBP: a weighted mean of the loss of the bounds and of the loss at adversarial points."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.train.losses.crown_ibp import CrownIBP
from pipeline.train.losses.loss import LossInput, loss


@loss("mtl-ibp")
class MTLIBP(CrownIBP):
    """``alpha CE(-m) + (1 - alpha) CE(z')``, ``z'`` the logits of adversarial points (De Palma et al., arXiv 2305.13991, eq. 7).

    The margins ``m`` are those of IBP, or mixed with those of CROWN-IBP where ``crown_start`` or ``crown_end`` is positive.
    """

    settings = (*CrownIBP.settings, "alpha", "adversary_steps", "adversary_step")
    attacks = True

    def __call__(self, samples: LossInput, *, linear: bool) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        bounded, certified = super().__call__(samples, linear=linear)
        attacked = F.cross_entropy(samples.logits(), samples.labels, reduction="sum")
        return self.recipe.alpha * bounded + (1 - self.recipe.alpha) * attacked, certified
