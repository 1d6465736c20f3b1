"""The loss of one batch: the recipe's robust loss, a share of the natural one, and the regularisers of the warmup."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds.ibp import lockstep
from pipeline.bounds.margins import Head, head
from pipeline.core.interval import Interval, Lockstep, at_least_float32
from pipeline.core.network import Network
from pipeline.core.threat import clipped_box
from pipeline.distributed.sync_batch import WHOLE, Batch
from pipeline.train.accumulate import MicroBatch, accumulate
from pipeline.train.adversary import adversarial_points
from pipeline.train.batch_network import batch_network, empty_, shells_of
from pipeline.train.hyperparameters import Recipe
from pipeline.train.losses import LOSSES, LossInput
from pipeline.train.losses.loss import logits
from pipeline.train.regularise import regularisers
from pipeline.train.terms import Phase, Schedule, Terms

LARGEST_LOSS = 20
"""The binary exponent up to which a loss is differentiated without a factor."""


class Objective:
    """``kappa CE(z) + (1 - kappa) L + weight (tightness + balance) + l1 |W|_1``; before eps leaves zero, ``CE(z)`` stands for L.

    ``L`` is the loss that the recipe names (see ``losses``); the terms after it are those of Shi et al., arXiv 2103.17268,
    section 3. BatchNorms in train mode take their statistics from the clean batch, and attacks and bounds are of the network
    under these statistics: all terms are about one function, and the running statistics see clean data alone.
    """

    def __init__(self, network: Network, recipe: Recipe, teacher: Network | None = None):
        self.network, self.recipe = network, recipe
        self.loss = LOSSES[recipe.loss](network, recipe)
        self.teacher = head(teacher.plan()) if teacher is not None and self.loss.taught else None
        self.shells = shells_of(network.plan())
        self.penalised = [p for p in network.trainable().values() if p.dim() > 1] if recipe.l1 else []

    def __call__(
        self,
        top: Head,
        x: Float[Tensor, " batch *features"],
        y: Int[Tensor, " batch"],
        now: Schedule,
        draw: Float[Tensor, " batch *features"] | None = None,
        *,
        phase: Phase,
        batch: Batch = WHOLE,
        low: float = 0.0,
        high: float = 1.0,
    ) -> Terms:
        """The terms of one batch of samples ``x`` with labels ``y``.

        ``draw``, uniform in [0, 1], places the start of an attack in its box, for losses that attack; ``[low, high]`` is the
        valid range of the input; ``batch`` says which part of a batch the samples are.
        """
        terms = self._of_samples(top, x, y, now, draw, phase, batch, low, high)
        if not self.penalised:
            return terms
        return replace(
            terms, loss=terms.loss + self.recipe.l1 * torch.stack([p.abs().sum() for p in self.penalised]).sum()
        )

    def _of_samples(
        self,
        top: Head,
        x: Tensor,
        y: Tensor,
        now: Schedule,
        draw: Tensor | None,
        phase: Phase,
        batch: Batch,
        low: float,
        high: float,
    ) -> Terms:
        if not (phase.robust or phase.regularised):
            if batch.whole:
                return self._natural(logits(top, x), y)
            # The BatchNorms of torch.nn would take statistics of this process's samples alone.
            clean = batch_network(top.plan, x, self.shells, batch=batch)
            empty_(self.shells)
            return self._natural(clean.logits, y)
        box = clipped_box(x, now.eps, low, high)
        attacks = phase.robust and self.loss.attacks
        if attacks or phase.linear or self.recipe.micro_batch is not None:
            return self._in_two_walks(top, x, y, box, now, draw if attacks else None, phase, batch)
        return self._in_one_walk(top, x, y, box, now, phase, batch)

    def _natural(self, logits: Tensor, y: Tensor) -> Terms:
        """The terms of the natural loss alone."""
        natural, zero = F.cross_entropy(at_least_float32(logits).flatten(1), y), torch.zeros_like(logits.flatten()[0])
        correct = (logits.detach().flatten(1).argmax(1) == y).sum().to(logits.dtype)
        return Terms(natural, natural.detach(), zero, zero, zero, correct, zero)

    def _in_one_walk(
        self, top: Head, x: Tensor, y: Tensor, box: Interval, now: Schedule, phase: Phase, batch: Batch
    ) -> Terms:
        """Clean values and boxes in one lockstep walk: no value is computed twice."""
        values = lockstep(top.plan, x, box, batch=batch)
        logits = values[top.index]
        assert isinstance(logits, Lockstep)
        terms = self._natural(logits.clean, y)
        if phase.robust:
            worst, certified = self.loss(LossInput(top, x, box, y, values, now.progress), linear=False)
            terms = replace(terms, robust=worst / len(y), certified=certified)
        if phase.regularised:
            tightness, balance = regularisers(top.plan, values, tau=self.recipe.tau, batch=batch)
            terms = replace(terms, tightness=tightness, balance=balance)
        return self._with_loss(terms, now, phase)

    def _in_two_walks(
        self,
        top: Head,
        x: Tensor,
        y: Tensor,
        box: Interval,
        now: Schedule,
        draw: Tensor | None,
        phase: Phase,
        batch: Batch,
    ) -> Terms:
        """First the clean batch, for its statistics; then the network under these, at attacked points or a part at a time."""
        clean = batch_network(top.plan, x, self.shells, batch=batch)
        fixed, recipe = replace(top, plan=clean.plan), self.recipe
        terms, points = self._natural(clean.logits, y), x
        if draw is not None:
            points = adversarial_points(fixed, box, y, draw, steps=recipe.adversary_steps, step=recipe.adversary_step)

        with torch.no_grad():
            taught = None if self.teacher is None or not phase.robust else logits(self.teacher, x)

        def part(of: Head, rows: slice) -> MicroBatch:
            teacher = None if taught is None else taught[rows]
            return self._part(of, points[rows], box[rows], y[rows], now.progress, phase, teacher)

        if recipe.micro_batch is None:
            whole = part(fixed, slice(None))
            terms = replace(terms, robust=whole.worst / len(y), certified=whole.certified)
            if phase.regularised:
                tightness, balance = regularisers(top.plan, whole.values, tau=recipe.tau, batch=batch)
                terms = replace(terms, tightness=tightness, balance=balance)
            empty_(self.shells)
            return self._with_loss(terms, now, phase)
        share = 1 - self._kappa(now, phase)
        total = accumulate(
            top,
            clean,
            list(self.network.trainable().values()),
            part,
            len(y),
            recipe.micro_batch,
            share=share,
            weight=now.weight,
            tau=recipe.tau,
            used=(phase.tightness, phase.balance),
            batch=batch,
        )
        empty_(self.shells)
        return replace(
            terms,
            loss=(1 - share) * terms.loss + total.value,
            robust=total.worst if phase.robust else terms.robust,
            tightness=total.tightness,
            balance=total.balance,
            certified=total.certified,
        )

    def _part(
        self,
        top: Head,
        points: Tensor,
        box: Interval,
        y: Int[Tensor, " batch"],
        progress: Tensor,
        phase: Phase,
        teacher: Tensor | None,
    ) -> MicroBatch:
        """One walk over some of the samples, and their robust loss."""
        zero = torch.zeros((), dtype=points.dtype, device=points.device)
        bounded = self.loss.bounds or phase.regularised
        values = lockstep(top.plan, points, box) if bounded else ()
        if not phase.robust:
            return MicroBatch(zero, zero, values)
        samples = LossInput(top, points, box, y, values, progress, teacher)
        worst, certified = self.loss(samples, linear=phase.linear)
        return MicroBatch(worst, certified, values)

    def _kappa(self, now: Schedule, phase: Phase) -> Tensor:
        """The share of the natural loss: one before the ramp."""
        return now.kappa if phase.robust else torch.ones_like(now.kappa)

    def _with_loss(self, terms: Terms, now: Schedule, phase: Phase) -> Terms:
        """The terms with the loss that they add up to; no gradient flows through any other of them."""
        loss = terms.robust if phase.robust else terms.loss
        if phase.robust and (self.recipe.natural_start or self.recipe.natural_end):
            loss = now.kappa * terms.loss + (1 - now.kappa) * terms.robust
        if phase.regularised:
            used = (terms.tightness if phase.tightness else 0) + (terms.balance if phase.balance else 0)
            loss = loss + now.weight * used
        detached = {name: getattr(terms, name).detach() for name in ("robust", "tightness", "balance", "certified")}
        return replace(terms, loss=loss, **detached)


def shrinkage(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The power of two by which a loss is divided before its gradient is taken: 1 up to ``2^LARGEST_LOSS``.

    In nets of some fifty layers bounds begin beyond 1e18 and fall in the course of training; the squares of their gradients would
    overflow float32 long before the gradients do.
    """
    _, exponent = torch.frexp(loss)
    return torch.ldexp(torch.ones_like(loss), (exponent - LARGEST_LOSS).clamp(min=0))
