"""The loss of CROWN-IBP: margins by one linear walk back to the input, mixed with those of IBP."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from pipeline.bounds.linear import Bounds, LinearWalk
from pipeline.bounds.margins import margin_form
from pipeline.core.interval import Lockstep
from pipeline.core.threat import Box
from pipeline.train.losses.ibp import IBP
from pipeline.train.losses.loss import LossInput, loss


@loss("crown-ibp")
class CrownIBP(IBP):
    """``log(1 + sum_j exp(-m_j))`` with ``m = (1 - beta) m_IBP + beta m_CROWN-IBP`` (Zhang et al., arXiv 1906.06316, eq. 10).

    ``beta`` moves with eps, linearly, from ``crown_start`` to ``crown_end``.
    """

    settings: ClassVar[tuple[str, ...]] = ("crown_start", "crown_end")

    def beta(self, progress: float | Tensor) -> float | Tensor:
        """The share of the linear margins at this ``eps / eps_max``."""
        start, end = self.recipe.crown_start, self.recipe.crown_end
        return start + (end - start) * progress

    def linear(self, progress: float) -> bool:
        return float(self.beta(progress)) > 0

    def margins(self, samples: LossInput, *, linear: bool) -> Float[Tensor, "rows batch"]:
        margins = super().margins(samples, linear=linear)
        if not linear:
            return margins
        beta = self.beta(samples.progress)
        return (1 - beta) * margins + beta * self.linear_margins(samples)

    def linear_margins(self, samples: LossInput) -> Float[Tensor, "rows batch"]:
        """Margins by one backward walk to the input over the boxes of IBP, differentiable in weights and boxes."""
        boxes = {i: v.box if isinstance(v, Lockstep) else v for i, v in enumerate(samples.values) if v is not None}
        bounds = Bounds(LinearWalk(self.network, plan=samples.top.plan), [Box(samples.box)], boxes)
        logits = bounds.box(samples.top.index).center
        return bounds.lower({samples.top.index: margin_form(samples.labels, logits.shape[1:], logits.dtype)})
