"""The loss of certified training with a teacher: the bounds, and at adversarial points what an accurate network says."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.train.losses.crown_ibp import CrownIBP
from pipeline.train.losses.loss import LossInput, loss
from pipeline.train.losses.mtl_ibp import MTLIBP


@loss("distil")
class Distil(MTLIBP):
    """``alpha CE(-m) + (1 - alpha) KL(softmax(t) || softmax(z'))``, the robust distillation of arXiv 2606.31653.

    ``m`` are the margins of MTL-IBP, ``z'`` the logits of adversarial points, ``t`` those of the teacher at the samples, before
    any perturbation. MTL-IBP has the label in place of the teacher.
    """

    settings = (*MTLIBP.settings, "teacher")
    taught = True

    def __call__(self, samples: LossInput, *, linear: bool) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        bounded, certified = CrownIBP.__call__(self, samples, linear=linear)
        assert samples.teacher is not None
        student, teacher = (F.log_softmax(z, 1) for z in (samples.logits(), samples.teacher))
        divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
        return self.recipe.alpha * bounded + (1 - self.recipe.alpha) * divergence, certified
