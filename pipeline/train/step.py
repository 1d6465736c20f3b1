"""The step of a training run: model, optimiser, the schedule of the current epoch, and its totals on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.bounds.margins import MarginBounds
from pipeline.core.network import Network
from pipeline.core.ops import BatchNorm
from pipeline.distributed.group import SINGLE, ProcessGroup
from pipeline.distributed.sync_batch import WHOLE, Batch, part_of
from pipeline.errors import Diverged, InputRejected
from pipeline.train.average import Average
from pipeline.train.captured import Captured
from pipeline.train.compiled import Compiled
from pipeline.train.execution import PLAIN, Execution
from pipeline.train.held_out import accuracies
from pipeline.train.hyperparameters import Recipe
from pipeline.train.objective import Objective, shrinkage
from pipeline.train.schedule import numbers
from pipeline.train.terms import Phase, Schedule, Terms

TERMS = ("loss", "natural", "robust", "tightness", "balance", "correct", "certified")
FUSED = ("cpu", "cuda")
"""Devices with fused optimisers: one kernel takes the step, or skips it by a flag that stays on the device."""


class Trainer:
    """Takes steps on ``model`` in place; only ``check`` and ``record`` wait for the device.

    Every process of a ``group`` is given whole batches and computes on its part of each; gradients and totals are those of the
    whole batch. Raises InputRejected (3) for a network without a trainable parameter.
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
        group: ProcessGroup = SINGLE,
        teacher: Network | None = None,
    ):
        self.group = group
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
            # A fused optimiser takes no step while this is one: from the first loss or gradient that is not finite on, the
            # weights stay as they are, for ``diagnosis`` to read.
            self.optimiser.found_inf = self.failed
        by_name = dict(model.graph.named_parameters())
        self.masks = [(by_name[name], mask.to(by_name[name])) for name, mask in (masks or {}).items()]
        self.average = Average(model) if recipe.ema else None
        self.margins = MarginBounds(model)
        if teacher is not None:
            execution.place(teacher)
        objective = Objective(model, recipe, teacher)
        self.loss, self.objective = objective.loss, Compiled(objective.__call__, execution, self.device)
        self.captured = Captured(self._update, self.device) if execution.graph and group.world_size == 1 else None
        self.draws = torch.Generator(self.device)
        self.totals = torch.zeros(len(TERMS) + 2, dtype=torch.float64, device=self.device)

    def begin(self, epoch: int) -> None:
        """Set learning rate and phase of an epoch (from one), and eps and lambda of each of its batches."""
        now = numbers(self.recipe, epoch, self.steps_per_epoch, self.eps_max)
        self.epoch, self.rate, self.eps, self.weights, self.means = epoch, now.rate, now.eps, now.weights, now.means
        for group in self.optimiser.param_groups:
            group |= {"lr": now.rate, "capturable": self.captured is not None}
        warm, linear = now.regularised, now.robust and any(map(self.loss.linear, now.progress))
        self.phase = Phase(now.robust, warm and self.recipe.tightness, warm and self.recipe.balance, linear=linear)
        self.objective.begin(epoch, self.recipe.warmup_start)
        radii = [box * (self.high - self.low) for box in now.boxes]
        rows = [radii, now.weights, now.kappas, now.progress, now.means or [0.0] * len(radii)]
        self.schedule = torch.tensor(rows, dtype=self.parameters[0].dtype, device=self.device).T
        self.model.train()
        frozen = {name.rpartition(".")[0] for name in self.model.provenance.frozen}
        for name, module in self.model.graph.named_modules():
            if isinstance(module, BatchNorm) and name in frozen:
                module.eval()

    def step(self, i: int, x: Float[Tensor, " batch *features"], y: Int[Tensor, " batch"]) -> None:
        """Take the step of batch ``i`` of the epoch, from zero: ``x`` in units of the data, ``y`` the labels."""
        part = part_of(len(y), self.group)
        x, y = self.execution.arrange(x[part.rows]), y[part.rows]
        noise = self._draw(i, x, part)
        if self.captured is None:
            self._update(x, y, self.schedule[i], noise, part, self.means[i] if self.means else None)
        else:
            # What the Python of a step reads besides its tensors.
            key = self.phase, self.rate, bool(self.means), self.objective.mode
            self.captured(key, x, y, self.schedule[i], *(() if noise is None else (noise,)))
        if self.average is not None and self.means:
            self.average.steps += 1

    def _update(
        self,
        x: Tensor,
        y: Tensor,
        now: Tensor,
        draw: Tensor | None = None,
        part: Batch = WHOLE,
        mean: float | None = None,
    ) -> None:
        """The step itself: all that it reads and moves lies on the device, and no branch depends on a tensor.

        ``mean``: the weight of the running mean, where the host may know it (one kernel then moves all of the mean).
        """
        self.optimiser.zero_grad(set_to_none=True)
        with self.execution.arithmetic():
            with self.execution.products(self.device):
                terms = self._terms(self.objective, x, y, now, draw, part)
            values = self.reduce(terms, part)
            scale = shrinkage(values[0])
            terms.loss.backward(part.share / scale)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.group.all_reduce_(gradients)
        for parameter, mask in self.masks:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
        norm = nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, torch.minimum(self.recipe.clip_norm / (norm + 1e-6 / scale), scale))
        self.failed.copy_(torch.maximum(self.failed, (~torch.isfinite(norm + values[0])).to(self.failed)))
        self.optimiser.step()
        if self.average is not None and self.means:
            self.average.update(now[-1] if mean is None else mean)
        self.totals[:-2] += values
        self.totals[-2] += part.count(len(y))

    def reduce(self, terms: Terms, part: Batch) -> Float[Tensor, " terms"]:
        """``TERMS`` of the whole batch, from those of each process's part: means weighted by its share, counts added."""
        values = torch.stack([getattr(terms, t).detach() for t in TERMS])
        if self.group.world_size > 1:
            values[:-2] *= part.share
            self.group.all_reduce_([values])
        return values

    def compare_compiled(self, i: int, x: Float[Tensor, " batch *features"], y: Int[Tensor, " batch"]) -> str:
        """Compare the compiled and the eager gradient of batch ``i`` where that is due: see ``Compiled.compare``."""
        if not self.objective.due(self.epoch):
            return ""
        compiled, eager = (self._gradient(i, x, y, f) for f in (self.objective.compiled, self.objective.eager))
        return self.objective.compare(self.epoch, compiled, eager, self.group)

    def _gradient(self, i: int, x: Tensor, y: Tensor, objective: Callable[..., Terms]) -> Float[Tensor, " weights"]:
        """The gradient of batch ``i`` by an objective, flat; running statistics do not move."""
        buffers = {name: buffer.clone() for name, buffer in self.model.graph.named_buffers()}
        part = part_of(len(y), self.group)
        with self.execution.arithmetic():
            with self.execution.products(self.device):
                loss = self.terms(i, self.execution.arrange(x[part.rows]), y[part.rows], part, objective).loss
            gradients = torch.autograd.grad(loss / shrinkage(loss.detach()), self.parameters, allow_unused=True)
        with torch.no_grad():
            for name, buffer in self.model.graph.named_buffers():
                buffer.copy_(buffers[name])
        return torch.cat([g.flatten().double() for g in gradients if g is not None])

    def terms(
        self,
        i: int,
        x: Float[Tensor, " batch *features"],
        y: Int[Tensor, " batch"],
        part: Batch = WHOLE,
        objective: Callable[..., Terms] | None = None,
    ) -> Terms:
        """The loss of batch ``i``, of which the samples are ``part``, and its terms."""
        return self._terms(objective or self.objective, x, y, self.schedule[i], self._draw(i, x, part), part)

    def _terms(
        self, objective: Callable[..., Terms], x: Tensor, y: Tensor, now: Tensor, draw: Tensor | None, part: Batch
    ) -> Terms:
        schedule = Schedule(*now.unbind()[:-1])
        return objective(
            self.margins.top, x, y, schedule, draw, phase=self.phase, batch=part, low=self.low, high=self.high
        )

    def _draw(self, i: int, x: Tensor, part: Batch) -> Tensor | None:
        """Where the attack on batch ``i`` starts: a function of the seed and the step alone, so that a run can be interrupted."""
        if not self.loss.attacks:
            return None
        position = self.epoch * self.steps_per_epoch + i
        self.draws.manual_seed((self.recipe.seed * 0x9E3779B97F4A7C15 + position) % (1 << 63))
        return part.uniform(x.shape, self.draws, x)

    def check(self) -> list[float]:
        """Read the totals back from the device. Raises Diverged (6) where a loss or a gradient was not finite."""
        self.totals[-1] = self.failed
        *totals, failed = self.totals.tolist()
        if failed or not math.isfinite(totals[0]):
            raise Diverged(
                f"the loss of epoch {self.epoch} is not finite at eps {self.eps[-1]:.4g}; the last checkpoint, if any, is from "
                "before."
            )
        return totals

    def record(self, held_out: tuple[Tensor, Tensor] | None) -> dict[str, int | float]:
        """The figures of the epoch (see ``Epoch``), with accuracies on the held-out samples and labels. Raises Diverged (6)."""
        *sums, samples = self.check()
        means = dict(zip(TERMS[:5], (s / self.steps_per_epoch for s in sums), strict=False))
        record: dict[str, int | float] = {
            "epoch": self.epoch,
            "eps": self.eps[-1],
            "lambda": self.weights[-1] if self.phase.regularised else 0.0,
        }
        record |= {"lr": self.rate} | means
        record |= {"train_natural": sums[5] / samples, "train_certified": sums[6] / samples}
        if held_out is not None and len(held_out[1]):
            with self.as_delivered(), PLAIN.arithmetic():
                radius = self.eps_max * (self.high - self.low)
                natural, certified = accuracies(
                    self.model, self.margins, *held_out, radius, self.low, self.high, self.group
                )
            record |= {"held_natural": natural, "held_certified": certified}
        return record

    def as_delivered(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that it would be delivered with: their running mean, where the recipe takes one."""
        return nullcontext() if self.average is None else self.average.in_place()

    @torch.no_grad()
    def deliver(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Give the model the weights that the recipe delivers: ``state``, else the running mean, else the last weights."""
        if state is not None:
            self.model.load_state_dict(state)
        elif self.average is not None and self.average.steps:
            self.average.load(self.average.mean)
