"""Losses beyond that of IBP alone: shares of the natural loss, of an attack's, and of CROWN-IBP's margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds import Interval, Lockstep
from pipeline.network import Network
from pipeline.propagate.crown import Bounds, LinearWalk
from pipeline.propagate.interval import lockstep
from pipeline.propagate.margins import Head, lockstep_margins
from pipeline.threat import Box, clipped_box, margin_form
from pipeline.train.accumulate import Part, accumulated
from pipeline.train.adversary import attacked, logits
from pipeline.train.batch_network import batch_network, empty_, shells_of
from pipeline.train.objective import Phase, Terms
from pipeline.train.recipe import Recipe
from pipeline.train.regularise import regularisers


class Mixture:
    """``kappa CE(z) + (1 - kappa) [alpha CE(-m) + (1 - alpha) CE(z')] + weight (tightness + balance)``, as ``Recipe`` has it.

    The clean batch is walked once, in train mode; attack, bounds and attacked logits are those of the network under its
    statistics, so that all of them speak of one function and the running statistics see clean data alone. ``m`` mixes the
    margins of IBP with those of CROWN-IBP (Zhang et al., arXiv 1906.06316, section 3.2), ``z'`` are the logits of attacked
    samples (De Palma et al., MTL-IBP, arXiv 2305.13991, eq. 7). Before the ramp the loss is the natural one.
    """

    def __init__(self, network: Network, recipe: Recipe):
        self.network, self.recipe = network, recipe
        self.shells = shells_of(network.plan())

    def __call__(
        self,
        top: Head,
        x: Float[Tensor, " batch *features"],
        y: Int[Tensor, " batch"],
        eps: Float[Tensor, ""],
        weight: Float[Tensor, ""],
        shares: Float[Tensor, "2"],
        draw: Float[Tensor, " batch *features"],
        *,
        phase: Phase,
        low: float = 0.0,
        high: float = 1.0,
    ) -> Terms:
        """The terms of one batch; ``shares`` are kappa and beta at its eps, ``draw`` in [0, 1] where the attack begins."""
        clean = batch_network(top.plan, x, self.shells)
        natural, zero = F.cross_entropy(clean.logits.flatten(1), y), torch.zeros((), dtype=x.dtype, device=x.device)
        correct = (clean.logits.detach().flatten(1).argmax(1) == y).sum().to(x.dtype)
        if not (phase.robust or phase.regularised):
            empty_(self.shells)
            return Terms(natural, natural.detach(), zero, zero, zero, correct, zero)
        here, box = replace(top, plan=clean.plan), clipped_box(x, eps, low, high)
        points, kappa = x, shares[0] if phase.robust else torch.ones_like(zero)
        if phase.robust and self.recipe.alpha < 1:
            steps, step = self.recipe.adversary_steps, self.recipe.adversary_step
            points = attacked(here, box, y, draw, steps=steps, step=step)

        def part(plan_top: Head, rows: slice) -> Part:
            return self.part(plan_top, points[rows], box[rows], y[rows], shares[1], phase)

        if self.recipe.micro_batch is None:
            whole = part(here, slice(None))
            worst, certified, tightness, balance = whole.worst / len(y), whole.certified, zero, zero
            if phase.regularised:
                tightness, balance = regularisers(top.plan, whole.values, tau=phase.tau)
            used = (tightness if phase.tightness else 0) + (balance if phase.balance else 0)
            extra = (1 - kappa) * worst + weight * used
        else:
            done = accumulated(
                top,
                clean,
                list(self.network.trainable().values()),
                part,
                len(y),
                self.recipe.micro_batch,
                share=1 - kappa,
                weight=weight,
                phase=phase,
            )
            extra, worst, certified, tightness, balance = done
        empty_(self.shells)
        return Terms(
            kappa * natural + extra,
            natural.detach(),
            worst.detach() if phase.robust else zero,
            tightness.detach(),
            balance.detach(),
            correct,
            certified,
        )

    def part(
        self, top: Head, points: Tensor, box: Interval, y: Int[Tensor, " batch"], beta: Tensor, phase: Phase
    ) -> Part:
        """One walk of boxes and attacked points side by side, and what the loss reads of it."""
        alpha, zero = self.recipe.alpha, torch.zeros((), dtype=points.dtype, device=points.device)
        if alpha == 0 and not phase.regularised:
            return Part(F.cross_entropy(logits(top, points), y, reduction="sum"), zero, ())
        values = lockstep(top.plan, points, box)
        if not phase.robust:
            return Part(zero, zero, values)
        worst, certified = zero, zero
        if alpha > 0:
            margins = lockstep_margins(top, values, y)
            if phase.crown:
                margins = (1 - beta) * margins + beta * self.crown_margins(top, values, box, y)
            worst = alpha * torch.logsumexp(F.pad(-margins, (0, 0, 1, 0)), 0).sum()
            certified = (margins.detach() > 0).all(0).sum().to(points.dtype)
        if alpha < 1:
            said = values[top.index]
            assert isinstance(said, Lockstep)
            worst = worst + (1 - alpha) * F.cross_entropy(said.clean.flatten(1), y, reduction="sum")
        return Part(worst, certified, values)

    def crown_margins(
        self, top: Head, values: Sequence[Lockstep | Tensor | None], box: Interval, y: Int[Tensor, " batch"]
    ) -> Float[Tensor, "rows batch"]:
        """Margins by one linear walk back to the input over the boxes of IBP, differentiable in weights and boxes alike."""
        bounds = Bounds(LinearWalk(self.network, plan=top.plan), [Box(box)])
        bounds.values |= {i: v.box if isinstance(v, Lockstep) else v for i, v in enumerate(values) if v is not None}
        logits_box = bounds.box(top.index).center
        return bounds.lower({top.index: margin_form(y, logits_box.shape[1:], logits_box.dtype)})
