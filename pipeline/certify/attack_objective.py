"""The function that an attack descends on: the bounded rows, taken before operators at the end that saturate.

A Softmax, or a nondecreasing function applied to every entry, keeps the order of the classes: another label behind it is
another label before it, or a tie. Such operators are left out of the gradient, never out of the decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.bounds import walk
from pipeline.bounds.specification import Specification
from pipeline.certify.subdomain import inputs_of
from pipeline.core import ops
from pipeline.core.network import IN_ORDER, Network, Plan, Step

RISING = (
    *(nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.ELU, nn.CELU, nn.SELU),
    *(ops.Clip, ops.Erf, ops.Exp, ops.Log, ops.Sqrt, ops.Sign, ops.Floor, ops.Ceil, ops.Round, ops.RoundToGrid),
)
"""Nondecreasing, and the same function of every entry."""


class Evaluation(NamedTuple):
    """At each point: ``least`` of the specification, the ``size`` of its terms, and the gradient (zero without ``slope``)."""

    least: Float[Tensor, " batch"]
    size: Float[Tensor, " batch"]
    gradient: Float[Tensor, " batch *features"]


@dataclass(frozen=True, eq=False)
class AttackObjective:
    """A network, and the nodes whose values replace its outputs in the gradient of a specification."""

    plan: Plan
    nodes: tuple[int, ...]
    groups: int | None = None
    """The axis of a grouped Softmax, which is replaced by its logarithm: that orders entries in the same way."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """The shape of one sample of each input, where points are flat vectors of all inputs; else empty."""
    together: bool = True
    """Whether the network takes a batch; else it takes one sample at a time."""

    @classmethod
    def outputs(cls, network: Network) -> AttackObjective:
        """The objective on all outputs as they are; points are flat vectors of all inputs."""
        plan = network.plan()
        shapes = tuple(tuple(d or 1 for d in port.shape[1:]) for port in network.inputs)
        return cls(plan, tuple(plan.outputs), None, shapes, network.inputs[0].shape[0] is None)

    @classmethod
    def logits(cls, network: Network) -> AttackObjective:
        """The objective on the logits of a network with one input and one output, without operators that keep their order."""
        plan = network.plan()
        constants = {i: getattr(owner, name) for i, owner, name in plan.constants}
        by_index = {s.index: s for s in plan.steps}
        before, softmax = plan.before_softmax()
        (index,) = before.outputs if softmax is not None else plan.outputs
        while index in by_index and (argument := _argument_in_order(by_index[index], constants)) is not None:
            index = argument
        last = by_index.get(index)
        if last is not None and isinstance(last.op, nn.Softmax):
            return cls(plan, (last.args[0],), last.op.dim)
        return cls(plan, (index,))

    def evaluate(
        self,
        points: Float[Tensor, " batch *features"],
        rows: Specification,
        *,
        joint: bool = False,
        slope: bool = True,
    ) -> Evaluation:
        """Evaluate a specification at points; the gradient is that of ``rows.least(..., joint=joint)``."""
        if len(points) > 1 and not self.together:
            each = [self.evaluate(points[[i]], rows[:, [i]], joint=joint, slope=slope) for i in range(len(points))]
            return Evaluation(*map(torch.cat, zip(*each, strict=True)))
        points = points.detach().requires_grad_(slope)
        xs = inputs_of(points, self.shapes) if self.shapes else [points]
        values = walk.forward(self.plan, xs, _never, keep={*self.nodes})
        output = _flat([values[i] for i in self.plan.outputs]).detach()
        row_values = rows.values(_flat([self._in_order(values[i]) for i in self.nodes]))
        loss, least = rows.least(row_values, joint=joint), rows.least(row_values.detach())
        if self.nodes != tuple(self.plan.outputs):
            least = torch.minimum(least, rows.least(rows.values(output)))
        gradient = None
        if slope and loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss.sum(), points, allow_unused=True)
        # A gradient without a value, such as that of a square root at zero behind an inactive ReLU, counts as zero.
        gradient = torch.zeros_like(points) if gradient is None else gradient.nan_to_num(0.0)
        return Evaluation(least, output.abs().amax(1) * rows.weight.abs().amax((0, 2)), gradient)

    def _in_order(self, value: Tensor) -> Tensor:
        return value if self.groups is None else value.log_softmax(self.groups)


def _flat(values: Sequence[Tensor]) -> Float[Tensor, "batch outputs"]:
    return torch.cat([value.flatten(1) for value in values], 1)


def _argument_in_order(step: Step, constants: dict[int, Tensor]) -> int | None:
    """The argument of an operator that keeps the order of a sample's entries; None for any other operator."""
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
