"""The moving parts of one run: model, optimiser, what the epoch at hand asks for, and its totals on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.bounds.margins import MarginBounds
from pipeline.core.network import Network
from pipeline.core.ops import BatchNorm
from pipeline.core.threat import clipped_box
from pipeline.distributed.group import ALONE, Crew
from pipeline.distributed.sync_batch import WHOLE, Batch, part_of
from pipeline.errors import Diverged, InputRejected
from pipeline.train.average import Average
from pipeline.train.compiled import Compiled
from pipeline.train.execution import PLAIN, Execution
from pipeline.train.hyperparameters import Recipe
from pipeline.train.objective import Objective, Phase, Schedule, Terms
from pipeline.train.schedule import learning_rate, regulariser_weight, smoothed

TERMS = ("loss", "natural", "robust", "tightness", "balance", "correct", "certified")
FUSED = ("cpu", "cuda")
"""Devices whose optimisers take a step in one kernel, or none at all, by a number that stays on the device."""
LARGEST_LOSS = 20
"""The binary exponent up to which a loss is differentiated as it is."""


def shrinkage(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The power of two by which a loss is divided before its gradient is taken: 1 up to ``2^LARGEST_LOSS``.

    In nets of some fifty layers bounds begin beyond 1e18 and come down in the course of training; the squares of their gradients
    would leave the range of float32 long before the gradients do.
    """
    _, exponent = torch.frexp(loss)
    return torch.ldexp(torch.ones_like(loss), (exponent - LARGEST_LOSS).clamp(min=0))


class Trainer:
    """Takes steps on ``model`` in place; nothing is read back from the device but by ``check`` and ``record``.

    Each of a ``crew`` is given the whole batches and takes its part of each; what it steps by and totals is that of the whole.
    """

    def __init__(
        self,
        model: Network,
        steps_per_epoch: int,
        recipe: Recipe,
        eps: Fraction,
        low: float,
        high: float,
        *,
        execution: Execution = PLAIN,
        masks: Mapping[str, Tensor] | None = None,
        crew: Crew = ALONE,
    ):
        self.crew = crew
        self.model, self.steps_per_epoch, self.recipe, self.eps_max = model, steps_per_epoch, recipe, float(eps)
        self.low, self.high, self.execution = low, high, execution
        for name, parameter in model.graph.named_parameters():
            parameter.requires_grad_(name not in model.provenance.frozen)
        self.parameters = list(model.trainable().values())
        if not self.parameters:
            raise InputRejected("training needs a weight that trains; every parameter of this network is frozen.")
        self.device = self.parameters[0].device
        execution.place(model)
        self.fused = self.device.type in FUSED
        optimiser = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
        self.optimiser = optimiser(
            self.parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=self.fused
        )
        self.failed = torch.zeros((), device=self.device)
        if self.fused:
            # A fused optimiser takes no step while this is one: after the first loss or gradient that is not finite the
            # weights stay what they were, for ``diagnosis`` to look at.
            self.optimiser.found_inf = self.failed
        self.penalised = [p for p in self.parameters if p.dim() > 1] if recipe.l1 else []
        named = dict(model.graph.named_parameters())
        self.masks = [(named[name], mask.to(named[name])) for name, mask in (masks or {}).items()]
        self.average = Average(model, recipe.ema) if recipe.ema else None
        self.margins = MarginBounds(model)
        objective = Objective(model, recipe)
        self.loss, self.objective = objective.loss, Compiled(objective.__call__, execution, self.device)
        self.draws = torch.Generator(self.device)
        self.totals = torch.zeros(len(TERMS) + 2, dtype=torch.float64, device=self.device)

    def begin(self, epoch: int) -> None:
        """Set learning rate, phase, eps and lambda of an epoch, the latter two for all its batches at once."""
        r, n, final = self.recipe, self.steps_per_epoch, self.eps_max
        self.rate = learning_rate(epoch, base=r.learning_rate, decays=r.decay_epochs, factor=r.decay_factor)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        warm = r.regularised and epoch <= r.warmup_end and final > 0
        start, end = (r.warmup_start - 1) * n, r.warmup_end * n
        steps = range((epoch - 1) * n + 1, epoch * n + 1)
        self.eps = [smoothed(s, start=start, end=end, final=final, beta=r.beta, mid=r.mid) for s in steps]
        self.weights = [regulariser_weight(e, final=final, weight=r.reg_weight) for e in self.eps]
        self.epoch = epoch
        # The boxes that a regulariser reads never shrink to points; the loss reads the same ones.
        floor = r.eps_floor if warm else 0.0
        radii = [max(e, floor) * (self.high - self.low) for e in self.eps]
        progress = [e / final if final else 1.0 for e in self.eps]
        kappas = [r.natural_start + (r.natural_end - r.natural_start) * p for p in progress]
        robust = epoch >= r.warmup_start and final > 0
        linear = robust and any(map(self.loss.linear, progress))
        self.phase = Phase(robust, warm and r.tightness, warm and r.balance, linear=linear)
        self.objective.begin(epoch, r.warmup_start)
        numbers = [radii, self.weights, kappas, progress]
        self.schedule = torch.tensor(numbers, dtype=self.parameters[0].dtype, device=self.device).T
        self.model.train()
        for name, module in self.model.graph.named_modules():
            if (
                isinstance(module, BatchNorm)
                and {f"{name}.weight", f"{name}.bias"} & self.model.provenance.frozen.keys()
            ):
                module.eval()

    def step(self, i: int, x: Float[Tensor, " batch *features"], y: Int[Tensor, " batch"]) -> None:
        """Batch ``i`` of the epoch, from zero."""
        self.optimiser.zero_grad(set_to_none=True)
        part = part_of(len(y), self.crew)
        with self.execution.arithmetic():
            with self.execution.products(self.device):
                terms = self.terms(i, self.execution.arrange(x[part.rows]), y[part.rows], part)
            told = self.of_the_whole(terms, part)
            scale = shrinkage(told[0])
            terms.loss.backward(part.share / scale)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.crew.add_(gradients)
        for parameter, mask in self.masks:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
        norm = nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, torch.minimum(self.recipe.clip_norm / (norm + 1e-6 / scale), scale))
        self.failed.copy_(torch.maximum(self.failed, (~torch.isfinite(norm + told[0])).to(self.failed)))
        self.optimiser.step()
        if self.average is not None and self.epoch > self.recipe.warmup_end:
            self.average.update()
        self.totals[:-2] += told
        self.totals[-2] += len(y)
        self.totals[-1] = self.failed

    def of_the_whole(self, terms: Terms, part: Batch) -> Float[Tensor, " terms"]:
        """``TERMS`` of the whole batch, from those of a part: means by its share of the samples, counts as they are."""
        told = torch.stack([getattr(terms, t).detach() for t in TERMS])
        if self.crew.world > 1:
            told[:-2] *= part.share
            self.crew.add_([told])
        return told

    def compare_compiled(self, i: int, x: Float[Tensor, " batch *features"], y: Int[Tensor, " batch"]) -> str:
        """Compare the gradients of batch ``i``, compiled and eager, where that is due: see ``Compiled``."""
        if not self.objective.due(self.epoch):
            return ""
        compiled, eager = (self._gradient(i, x, y, f) for f in (self.objective.compiled, self.objective.eager))
        return self.objective.compare(self.epoch, compiled, eager, self.crew)

    def _gradient(self, i: int, x: Tensor, y: Tensor, objective: Callable[..., Terms]) -> Float[Tensor, " weights"]:
        """Of batch ``i``, by an objective; running statistics do not move."""
        held = {name: buffer.clone() for name, buffer in self.model.graph.named_buffers()}
        part = part_of(len(y), self.crew)
        with self.execution.arithmetic():
            with self.execution.products(self.device):
                loss = self.terms(i, self.execution.arrange(x[part.rows]), y[part.rows], part, objective).loss
            found = torch.autograd.grad(loss / shrinkage(loss.detach()), self.parameters, allow_unused=True)
        with torch.no_grad():
            for name, buffer in self.model.graph.named_buffers():
                buffer.copy_(held[name])
        return torch.cat([g.flatten().double() for g in found if g is not None])

    def terms(
        self,
        i: int,
        x: Float[Tensor, " batch *features"],
        y: Int[Tensor, " batch"],
        part: Batch = WHOLE,
        objective: Callable[..., Terms] | None = None,
    ) -> Terms:
        """The loss of batch ``i``, of which the samples are a part, and what it is made of."""
        draw = None
        if self.loss.attacks:
            # A function of the seed and the step alone: an interrupted run draws what an uninterrupted one would.
            position = self.epoch * self.steps_per_epoch + i
            self.draws.manual_seed((self.recipe.seed * 0x9E3779B97F4A7C15 + position) % (1 << 63))
            draw = part.uniform(x.shape, self.draws, x)
        now = Schedule(*self.schedule[i])
        terms = (objective or self.objective)(
            self.margins.top, x, y, now, draw, phase=self.phase, batch=part, low=self.low, high=self.high
        )
        if not self.penalised:
            return terms
        return replace(
            terms, loss=terms.loss + self.recipe.l1 * torch.stack([p.abs().sum() for p in self.penalised]).sum()
        )

    def check(self) -> list[float]:
        """The totals read back; raises Diverged where a loss or a gradient was not finite."""
        *totals, failed = self.totals.tolist()
        if failed or not math.isfinite(totals[0]):
            raise Diverged(
                f"the loss of epoch {self.epoch} is not finite at eps {self.eps[-1]:.4g}; the last checkpoint, if any, is from "
                "before."
            )
        return totals

    def record(self, held: tuple[Tensor, Tensor] | None) -> dict[str, int | float]:
        """The epoch in numbers (see ``Epoch``)."""
        *sums, samples = self.check()
        means = dict(zip(TERMS[:5], (s / self.steps_per_epoch for s in sums), strict=False))
        found: dict[str, int | float] = {
            "epoch": self.epoch,
            "eps": self.eps[-1],
            "lambda": self.weights[-1] if self.phase.regularised else 0.0,
        }
        found |= {"lr": self.rate} | means
        found |= {"train_natural": sums[5] / samples, "train_certified": sums[6] / samples}
        if held is not None and len(held[1]):
            with self.delivered(), PLAIN.arithmetic():
                natural, certified = self.accuracy(*held)
            found |= {"held_natural": natural, "held_certified": certified}
        return found

    def delivered(self) -> AbstractContextManager[None]:
        """The model as it would be delivered now: with the mean of its weights, where the recipe takes one."""
        return nullcontext() if self.average is None else self.average.in_place()

    @torch.no_grad()
    def deliver(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Leave in the model what the recipe delivers: the weights given, else the mean, else the last."""
        if state is not None:
            self.model.load_state_dict(state)
        elif self.average is not None and self.average.steps:
            self.average.load(self.average.mean)

    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor, *, chunk: int = 256) -> tuple[float, float]:
        """Natural and certified accuracy in eval mode at the full eps, by IBP in the precision of training."""
        self.model.eval()
        samples, mine = len(y), self.crew.rows(len(y))
        x, y = x[mine], y[mine]
        counts = torch.zeros(2, dtype=torch.int64, device=self.device)
        for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True) if len(y) else ():
            box = clipped_box(xs, self.eps_max * (self.high - self.low), self.low, self.high)
            counts[0] += (self.model(xs).flatten(1).argmax(1) == ys).sum()
            counts[1] += (self.margins.least(box, ys) > 0).sum()
        self.crew.add_([counts])
        natural, certified = counts.tolist()
        return natural / samples, certified / samples
