"""Margins: a backward walk of linear forms that stops at the first operator that is not affine.

Pulling ``e_y - e_j`` back through the affine tail of a network, and taking the minimum over the boxes where the tail ends,
is the last-layer merge for any tail: a Gemm behind a Reshape, a BatchNorm, a pooling, a residual sum. Without an affine
tail it is ``l_y - u_j``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.arithmetic import EXACT, Rounding
from pipeline.bounds import Interval, LinearForm, Lockstep
from pipeline.errors import InputRejected
from pipeline.network import Network, Plan, Step
from pipeline.ops import AffineBN, BatchNorm
from pipeline.propagate import walk
from pipeline.propagate.interval import IntervalWalk
from pipeline.rules import Affine, rule_for
from pipeline.threat import margin_form

BATCHED = (AffineBN, *get_args(BatchNorm))
"""Operators whose meaning depends on the batch while they train."""
SOFTMAX_MARGIN = 2.0**-17
"""How far apart two logits must lie for any float32 Softmax to keep their order (exp within 16 ulp, p_y >= 1/K)."""


@dataclass(frozen=True)
class Head:
    """The classifier's end: the plan up to its logits, and the nodes that margins read."""

    plan: Plan
    index: int
    """The node of the logits, the output of ``plan``."""
    softmax: bool
    """Whether a final Softmax was set aside."""
    tail: frozenset[int]
    """The affine tail, and the frontier where it ends."""


def head(plan: Plan) -> Head:
    """Where the logits of a classifier with one output are, and the affine tail that leads to them."""
    plan, softmax = plan.before_softmax()
    (index,) = plan.outputs
    by_index = {s.index: s for s in plan.steps}
    tail, pending = set(), [index]
    while pending:
        node = pending.pop()
        if node in tail:
            continue
        tail.add(node)
        if node in by_index and isinstance(rule_for(by_index[node].op), Affine):
            pending.extend(by_index[node].args)
    return Head(plan, index, softmax, frozenset(tail))


def margins(
    top: Head,
    values: Sequence[Interval | Tensor | None],
    labels: Int[Tensor, " batch"],
    rounding_at: Callable[[Step], Rounding] = lambda step: EXACT,
) -> Float[Tensor, "rows batch"]:
    """Lower bounds of ``z_y - z_j`` for every other class ``j`` and sample, from the boxes of the tail.

    ``values`` holds the boxes of the nodes in ``top.tail``; ``rounding_at(step)`` what each operator may add.
    """

    def box_at(index: int) -> Interval:
        box = values[index]
        assert isinstance(box, Interval)
        return box

    def visit(step: Step, form: LinearForm) -> Sequence[LinearForm | None] | None:
        rule = rule_for(step.op)
        # In training a BatchNorm's statistics are the batch's, which only the walk has seen: its own box is the frontier.
        if not isinstance(rule, Affine) or (isinstance(step.op, BATCHED) and step.op.training):
            return None
        arguments = (values[a] for a in step.args)
        return rule.pull_back(step.op, form, *(x for x in arguments if x is not None), rounding=rounding_at(step))

    logits = box_at(top.index).center
    form = margin_form(labels, logits.shape[1:], logits.dtype)
    rounding = rounding_at(top.plan.steps[-1])
    frontier = walk.backward(top.plan, top.index, form, visit, lambda i, a, b: rounding.merge(a, b, box_at(i)))
    return rounding.total([rounding.minimum(part, box_at(index)) for index, part in frontier.items()])


def lockstep_margins(top: Head, values: Sequence[Lockstep | Tensor], labels: Int[Tensor, " batch"]) -> Tensor:
    """The same from the values of a training walk, differentiable in the weights."""
    return margins(top, [v.box if isinstance(v, Lockstep) else v for v in values], labels)


class MarginBounds:
    """IBP margins of one classifier: ``bounds(box, labels)`` is the least margin over the other classes, per sample."""

    method = "ibp"

    def __init__(self, network: Network, rounding: Rounding = EXACT):
        if len(network.inputs) != 1 or len(network.outputs) != 1:
            raise InputRejected(
                "margins need one input and one output; this network has "
                f"{len(network.inputs)} and {len(network.outputs)}: name the logits with `--output`."
            )
        self.top = head(network.plan())
        self.walk = IntervalWalk(network, rounding, self.top.plan)

    @torch.no_grad()
    def bounds(self, box: Interval, labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The lower bound of ``min_j (z_y - z_j)``; what is not finite proves nothing."""
        values = self.walk.boxes([box], keep=self.top.tail)
        least = margins(self.top, values, labels, self.walk.rounding_at).amin(0)
        return least - SOFTMAX_MARGIN if self.top.softmax and self.walk.rounding.deployed else least
