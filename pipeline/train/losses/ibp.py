"""The loss of interval bound propagation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pipeline.train.losses.loss import Loss, LossInput, loss, robust_cross_entropy


@loss("ibp")
class IBP(Loss):
    """``log(1 + sum_j exp(-m_j))`` over the lower bounds ``m_j`` of the margins by IBP (Gowal et al., arXiv 1810.12715, eq. 12).

    The robust loss of Shi et al., arXiv 2103.17268, section 3.
    """

    def margins(self, samples: LossInput, *, linear: bool) -> Float[Tensor, "rows batch"]:
        """Lower bounds of ``z_y - z_j``."""
        return samples.margins()

    def __call__(self, samples: LossInput, *, linear: bool) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        margins = self.margins(samples, linear=linear)
        certified = (margins.detach() > 0).all(0).sum().to(margins.dtype)
        return robust_cross_entropy(margins), certified
