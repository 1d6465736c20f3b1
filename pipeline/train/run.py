"""The moving parts of one run: model, optimiser, what the epoch at hand asks for, and its totals on the device."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.errors import Diverged, InputRejected
from pipeline.network import Network
from pipeline.ops import BatchNorm
from pipeline.propagate.margins import MarginBounds
from pipeline.threat import clipped_box
from pipeline.train.objective import Phase, objective
from pipeline.train.recipe import Recipe
from pipeline.train.schedule import learning_rate, regulariser_weight, smoothed

TERMS = ("loss", "natural", "robust", "tightness", "balance", "correct", "certified")


class Run:
    """Takes steps on ``model`` in place; nothing is read back from the device but by ``check`` and ``record``."""

    def __init__(
        self,
        model: Network,
        steps_per_epoch: int,
        recipe: Recipe,
        eps: Fraction,
        low: float,
        high: float,
        *,
        compiled: bool = False,
    ):
        self.model, self.steps_per_epoch, self.recipe, self.eps_max = model, steps_per_epoch, recipe, float(eps)
        self.low, self.high, self.compiled = low, high, compiled
        for name, parameter in model.graph.named_parameters():
            parameter.requires_grad_(name not in model.provenance.frozen)
        self.parameters = list(model.trainable().values())
        if not self.parameters:
            raise InputRejected("training needs a weight that trains; every parameter of this network is frozen.")
        self.device = self.parameters[0].device
        self.optimiser = torch.optim.Adam(
            self.parameters,
            recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.bounds = MarginBounds(model)
        self.objective = torch.compile(objective, fullgraph=True) if compiled else objective
        self.totals = torch.zeros(len(TERMS) + 1, dtype=torch.float64, device=self.device)

    def begin(self, epoch: int) -> None:
        """Set learning rate, phase, eps and lambda of an epoch, the latter two for all its batches at once."""
        r, n, final = self.recipe, self.steps_per_epoch, self.eps_max
        self.rate = learning_rate(epoch, base=r.learning_rate, decays=r.decay_epochs, factor=r.decay_factor)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        warm = r.regularised and epoch <= r.warmup_end and final > 0
        self.phase = Phase(epoch >= r.warmup_start and final > 0, warm and r.tightness, warm and r.balance, r.tau)
        start, end = (r.warmup_start - 1) * n, r.warmup_end * n
        steps = range((epoch - 1) * n + 1, epoch * n + 1)
        self.eps = [smoothed(s, start=start, end=end, final=final, beta=r.beta, mid=r.mid) for s in steps]
        self.weights = [regulariser_weight(e, final=final, weight=r.reg_weight) for e in self.eps]
        # The boxes that a regulariser reads never shrink to points; the loss reads the same ones.
        floor = r.eps_floor if warm else 0.0
        radii = [max(e, floor) * (self.high - self.low) for e in self.eps]
        self._radii, self._lambdas = torch.tensor(
            [radii, self.weights], dtype=self.parameters[0].dtype, device=self.device
        )
        self.model.train()
        for name, module in self.model.graph.named_modules():
            if (
                isinstance(module, BatchNorm)
                and {f"{name}.weight", f"{name}.bias"} & self.model.provenance.frozen.keys()
            ):
                module.eval()

    def step(self, i: int, x: Float[Tensor, "batch *features"], y: Int[Tensor, " batch"]) -> None:
        """Batch ``i`` of the epoch, from zero."""
        radius, weight = self._radii[i], self._lambdas[i]
        terms = self.objective(self.bounds.top, x, y, radius, weight, phase=self.phase, low=self.low, high=self.high)
        self.optimiser.zero_grad(set_to_none=True)
        terms.loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.optimiser.step()
        self.totals[:-1] += torch.stack([getattr(terms, t).detach() for t in TERMS])
        self.totals[-1] += y.shape[0]

    def check(self, epoch: int) -> list[float]:
        """The totals read back; raises Diverged where the loss is not finite."""
        totals: list[float] = self.totals.tolist()
        if not math.isfinite(totals[0]):
            raise Diverged(
                f"the loss of epoch {epoch} is not finite at eps {self.eps[-1]:.4g}: lower the learning rate or lengthen the "
                "ramp; the last checkpoint, if any, is from before."
            )
        return totals

    def record(self, epoch: int, held: tuple[Tensor, Tensor] | None) -> dict[str, int | float]:
        """The epoch in numbers (see ``Epoch``)."""
        *sums, samples = self.check(epoch)
        means = dict(zip(TERMS[:5], (s / self.steps_per_epoch for s in sums), strict=False))
        found: dict[str, int | float] = {
            "epoch": epoch,
            "eps": self.eps[-1],
            "lambda": self.weights[-1] if self.phase.regularised else 0.0,
        }
        found |= {"lr": self.rate} | means
        found |= {"train_natural": sums[5] / samples, "train_certified": sums[6] / samples}
        if held is not None and len(held[1]):
            natural, certified = self.accuracy(*held)
            found |= {"held_natural": natural, "held_certified": certified}
        return found

    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor, *, chunk: int = 256) -> tuple[float, float]:
        """Natural and certified accuracy in eval mode at the full eps, by IBP in the precision of training."""
        self.model.eval()
        counts = torch.zeros(2, dtype=torch.int64, device=self.device)
        for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True):
            box = clipped_box(xs, self.eps_max * (self.high - self.low), self.low, self.high)
            counts[0] += (self.model(xs).flatten(1).argmax(1) == ys).sum()
            counts[1] += (self.bounds.bounds(box, ys) > 0).sum()
        natural, certified = counts.tolist()
        return natural / len(y), certified / len(y)
