"""Which neuron to split a part at: where the line that stands for a ReLU loses most, after a look ahead.

The value of a form at the point that minimises its bound, less the bound, is the sum over the neurons of what each line loses
there. The other score is the offset of the upper line, which a split takes away (BaBSR, Bunel et al., arXiv 1909.06588).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.bounds.ascent import SearchBounds
from pipeline.bounds.splits import Domains

CANDIDATES = 2
"""How many neurons of each score are tried before one is split."""


@torch.no_grad()
def halves_of(search: SearchBounds, domains: Domains, enough: Tensor) -> tuple[Domains, Tensor, Tensor]:
    """Both halves of each domain that can be split, first those of sign 1; which were split; and a point of each domain.

    The point minimises the domain's bound over the region. What the bound lacks of the value there is, neuron by
    neuron, the distance of the ReLU from its line: that is one score, the offset of the upper line the other. The
    ``CANDIDATES`` best of each score are tried, and the one whose worse half has the best bound is split.
    """
    neurons, points = [], []
    for part in search.parts(domains):
        gap, intercept, point = _scores(search, part)
        points.append(point)
        neurons.append(_chosen(search, part, gap, intercept, enough))
    neuron = torch.cat(neurons)
    divided = neuron >= 0
    both = [_assumed(domains[divided], neuron[divided], sign) for sign in (1.0, -1.0)]
    return Domains.joined(both), divided, torch.cat(points)


@torch.no_grad()
def losses(search: SearchBounds, domains: Domains) -> Tensor:
    """(rows, neurons): what each neuron's line loses at the point that minimises the bound, zero where its sign is assumed."""
    return torch.cat([_scores(search, part)[0].clamp_min(0) for part in search.parts(domains)])


def _scores(search: SearchBounds, domains: Domains) -> tuple[Tensor, Tensor, Tensor]:
    """By neuron, what its line loses at the point that minimises the bound, and what its upper line is off by at zero."""
    bound = search.bound(domains, domains.alpha, domains.beta)
    coeff, inside = bound.outputs, search.at(bound.point)
    true, assumed = inside.clamp_min(0), domains.sign != 0
    above = search.slope * inside + search.offset
    gap = torch.where(coeff >= 0, coeff * (true - domains.alpha * inside), -coeff * (above - true))
    intercept = (-coeff).clamp_min(0) * search.offset
    return gap.masked_fill(assumed, -torch.inf), intercept.masked_fill(assumed, -torch.inf), bound.point


def _chosen(search: SearchBounds, domains: Domains, gap: Tensor, intercept: Tensor, enough: Tensor) -> Tensor:
    """The neuron that each domain is split at, -1 where every sign is assumed."""
    count = min(CANDIDATES, gap.shape[1])
    if count == 0:
        return torch.full((len(domains),), -1)
    candidates = torch.cat([score.topk(count, 1).indices for score in (gap, intercept)], 1)
    usable = gap.gather(1, candidates) > -torch.inf
    options = [_assumed(domains, neuron, sign) for neuron in candidates.unbind(1) for sign in (1.0, -1.0)]
    bounds = [search.bound(part, part.alpha, part.beta).lower for part in search.parts(Domains.joined(options))]
    both = torch.minimum(torch.cat(bounds).reshape(candidates.shape[1], 2, len(domains)), enough[domains.of])
    # The sum decides between neurons whose worse halves are alike.
    worst = both.amin(1) + 1e-3 * both.sum(1)
    value = worst.T.nan_to_num(-torch.inf).masked_fill(~usable, -torch.inf)
    best = value.argmax(1, keepdim=True)
    return torch.where(value.gather(1, best) > -torch.inf, candidates.gather(1, best), -1).squeeze(1)


def _assumed(domains: Domains, neuron: Tensor, sign: float) -> Domains:
    at = neuron[:, None]
    signs = domains.sign.scatter(1, at, sign)
    return Domains(domains.of, signs, domains.alpha, domains.beta.scatter(1, at, 0.0), domains.lower)
