"""alpha-CROWN: the slopes that a relaxation leaves open, chosen by gradient for each row (Xu et al., arXiv 2011.13824)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.bounds.adam import Adam
from pipeline.bounds.linear import Bounds
from pipeline.core.linear_form import LinearForm


@dataclass(frozen=True)
class Search:
    """How slopes are searched for: Adam on the sum of the lower bounds, the step size falling by ``decay`` each time."""

    steps: int = 20
    step_size: float = 0.5
    decay: float = 0.98
    until_proved: bool = True
    """Whether a row stops to move once its bound is positive; comparisons of the bounds themselves want it to go on."""

    def improved(self, bounds: Bounds, forms: Mapping[int, LinearForm], least: Tensor) -> Tensor:
        """See ``improved``."""
        return improved(bounds, forms, least, self)


@torch.no_grad()
def improved(bounds: Bounds, forms: Mapping[int, LinearForm], least: Tensor, search: Search) -> Tensor:
    """The lower bounds ``least`` (rows, batch) of the forms, raised by better slopes; stops once all are proved.

    The search itself is outside what a proof rests on: its bounds leave rounding out, and the slopes that it ends with are
    put through one walk that does not.
    """
    rows = len(least)
    alpha = {
        index: start.expand(-1, rows, *start.shape[2:]).clone().requires_grad_()
        for index, start in bounds.slopes().items()
    }
    if not alpha or (search.until_proved and bool((least > 0).all())):
        return least
    best = {index: slopes.detach().clone() for index, slopes in alpha.items()}
    highest = torch.full_like(least, -torch.inf)
    variables = list(alpha.values())
    adam = Adam(variables, [search.step_size] * len(variables), search.decay)
    for step_ in range(search.steps + 1):
        with torch.enable_grad():
            lower = bounds.lower(forms, alpha=alpha, exact=True)
            raised = lower.detach() > highest
            highest = torch.where(raised, lower.detach(), highest)
            for index, slopes in alpha.items():
                keep = raised.reshape(1, *raised.shape, *[1] * (slopes.dim() - 3))
                best[index] = torch.where(keep, slopes.detach(), best[index])
            # A row that is proved, or is NaN, has nothing left to gain.
            open_ = (torch.maximum(highest, least) <= 0) | (~lower.detach().isnan() & (not search.until_proved))
            # Nor is there anything to choose where a walk stops before the first choice (at a step function).
            if step_ == search.steps or not lower.requires_grad or not bool(open_.any()):
                break
            gradients = torch.autograd.grad(-torch.where(open_, lower, 0).sum(), variables, allow_unused=True)
        adam.step(gradients)
        for slopes in variables:
            slopes.data.clamp_(0, 1)
    return torch.fmax(least, bounds.lower(forms, alpha=best))
