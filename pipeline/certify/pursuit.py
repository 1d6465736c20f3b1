"""What an attack climbs on: the margins that are bounded, before whatever behind them saturates and shows no gradient.

A Softmax, or one nondecreasing function of every entry, keeps the order of the classes: another label behind it is another
label before it, or a tie. Such operators are left out of what is differentiated, never of what decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.bounds import walk
from pipeline.core import ops
from pipeline.core.network import IN_ORDER, Network, Plan, Step

RISING = (
    *(nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.ELU, nn.CELU, nn.SELU),
    *(ops.Clip, ops.Erf, ops.Exp, ops.Log, ops.Sqrt, ops.Sign, ops.Floor, ops.Ceil, ops.Round, ops.RoundToGrid),
)
"""Nondecreasing, and the same function of every entry."""


@dataclass(frozen=True, eq=False)
class Pursuit:
    """A network with one output, and the node whose margins are climbed on."""

    plan: Plan
    index: int
    groups: int | None = None
    """The axis of a Softmax in groups that is climbed on by its logarithm, which orders its entries as it does."""

    @classmethod
    def of(cls, network: Network) -> Pursuit:
        """The logits of a network as far back as they keep the order of its outputs."""
        plan = network.plan()
        constants = {i: getattr(owner, name) for i, owner, name in plan.constants}
        by_index = {s.index: s for s in plan.steps}
        before, softmax = plan.before_softmax()
        (index,) = before.outputs if softmax is not None else plan.outputs
        while index in by_index and (argument := _passed(by_index[index], constants)) is not None:
            index = argument
        last = by_index.get(index)
        if last is not None and isinstance(last.op, nn.Softmax):
            return cls(plan, last.args[0], last.op.dim)
        return cls(plan, index)

    def gradient(
        self, point: Float[Tensor, " batch *features"], labels: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch *features"], Bool[Tensor, " batch"]]:
        """The gradient of ``max_j z_j - z_y`` in the input, and of which samples a point may have another label."""
        point = point.detach().requires_grad_()
        values = walk.forward(self.plan, [point], _never, keep={self.index})
        logits, (output,) = values[self.index], (values[i] for i in self.plan.outputs)
        if self.groups is not None:
            logits = logits.log_softmax(self.groups)
        loss = _excess(logits, labels)
        suspect = ~(loss.detach() < 0) | ~(_excess(output.detach(), labels) < 0)
        if not loss.requires_grad:
            return torch.zeros_like(point), suspect
        (gradient,) = torch.autograd.grad(loss.sum(), point, allow_unused=True)
        # A slope without a value, such as that of a square root at zero behind a ReLU that is off, moves nothing.
        return torch.zeros_like(point) if gradient is None else gradient.nan_to_num(0.0), suspect


def _excess(logits: Tensor, labels: Tensor) -> Tensor:
    """``max_j z_j - z_y`` over the other classes."""
    logits = logits.flatten(1)
    own = nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1) - logits[own]


def _passed(step: Step, constants: dict[int, Tensor]) -> int | None:
    """The argument of an operator that keeps the order of a sample's entries, None for any other."""
    op, args = step.op, step.args
    if isinstance(op, (*RISING, *IN_ORDER)) or (isinstance(op, nn.LeakyReLU) and op.negative_slope >= 0):
        return args[0]
    scalar = [a for a in args if a in constants and constants[a].numel() == 1]
    if len(args) != 2 or len(scalar) != 1:
        return None
    number, (varying,) = float(constants[scalar[0]]), (a for a in args if a != scalar[0])
    added = isinstance(op, ops.Add) or (isinstance(op, ops.Sub) and varying == args[0])
    scaled = isinstance(op, ops.Mul) or (isinstance(op, ops.Div) and varying == args[0])
    return varying if added or (scaled and number > 0) else None


def _never(step: Step, *values: object) -> Tensor:
    raise AssertionError("points are concrete")
