"""Margins: a backward walk of linear forms that stops at the first operator that is not affine.

Pulling ``e_y - e_j`` back through the affine tail of a network, and taking the minimum over the boxes where the tail ends,
is the last-layer merge for any tail: a Gemm behind a Reshape, a BatchNorm, a pooling, a residual sum. Without an affine
tail it is ``l_y - u_j``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.arithmetic import EXACT, Rounding
from pipeline.bounds import Interval, LinearForm, Lockstep
from pipeline.errors import InputRejected
from pipeline.network import Network, Plan, Step
from pipeline.propagate import walk
from pipeline.propagate.interval import IntervalWalk
from pipeline.rules import Affine, rule_for
from pipeline.threat import margin_form

SOFTMAX_MARGIN = 2.0**-17
"""How far apart two logits must lie for any float32 Softmax to keep their order (exp within 16 ulp, p_y >= 1/K)."""


@dataclass(frozen=True)
class Head:
    """Where the logits are: the output node, or the input of a Softmax that ends the graph, which keeps their order."""

    index: int
    softmax: bool
    tail: frozenset[int]
    """The nodes whose values the margins read: the affine tail, and the frontier where it ends."""


def head(plan: Plan) -> Head:
    """The logits of a classifier with one output; a final Softmax is set aside."""
    (index,) = plan.outputs
    by_index = {s.index: s for s in plan.steps}
    softmax = False
    while index in by_index and isinstance(by_index[index].op, nn.Softmax | nn.LogSoftmax | nn.Identity):
        softmax = softmax or not isinstance(by_index[index].op, nn.Identity)
        (index,) = by_index[index].args
    tail, pending = set(), [index]
    while pending:
        node = pending.pop()
        if node in tail:
            continue
        tail.add(node)
        if node in by_index and isinstance(rule_for(by_index[node].op), Affine):
            pending.extend(by_index[node].args)
    return Head(index, softmax, frozenset(tail))


def margins(
    plan: Plan,
    top: Head,
    values: list[Interval | Tensor],
    labels: Int[Tensor, " batch"],
    rounding_at: object = None,
) -> Float[Tensor, "rows batch"]:
    """Lower bounds of ``z_y - z_j`` for every other class ``j`` and sample, from the boxes of the tail.

    ``values`` holds the boxes of the nodes in ``top.tail``; ``rounding_at(step)`` what each operator may add.
    """
    at = rounding_at if callable(rounding_at) else lambda step: EXACT
    logits = values[top.index]
    assert isinstance(logits, Interval)
    form = margin_form(labels, logits.center.shape[1:], logits.center.dtype)

    def visit(step: Step, here: LinearForm) -> tuple[LinearForm | None, ...] | None:
        rule = rule_for(step.op)
        if not isinstance(rule, Affine):
            return None
        return rule.pull_back(step.op, here, *(values[a] for a in step.args), rounding=at(step))

    rounding: Rounding = at(plan.steps[-1])
    frontier = walk.backward(plan, top.index, form, visit, lambda i, a, b: rounding.merge(a, b, values[i]))
    total: Tensor | None = None
    for index, part in frontier.items():
        least = rounding.minimum(part, values[index])
        # Two frontier terms are added in the working precision; one more rounding each, charged like a merge.
        total = least if total is None else total + least - (total.abs() + least.abs()) * (4 * 2.0**-53 if rounding.sound else 0)
    assert total is not None
    return total


def lockstep_margins(plan: Plan, top: Head, values: list[Lockstep | Tensor], labels: Int[Tensor, " batch"]) -> Tensor:
    """The same from the values of a training walk, differentiable in the weights."""
    return margins(plan, top, [v.box if isinstance(v, Lockstep) else v for v in values], labels)


class MarginBounds:
    """IBP margins of one classifier: ``bounds(box, labels)`` is the least margin over the other classes, per sample."""

    method = "ibp"

    def __init__(self, network: Network, rounding: Rounding = EXACT):
        if len(network.inputs) != 1 or len(network.outputs) != 1:
            raise InputRejected(
                f"margins need one input and one output; this network has {len(network.inputs)} and {len(network.outputs)}: "
                "name the logits with `--output`."
            )
        self.walk = IntervalWalk(network, rounding)
        self.top = head(self.walk.plan)

    @torch.no_grad()
    def bounds(self, box: Interval, labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The lower bound of ``min_j (z_y - z_j)``; what is not finite proves nothing."""
        values = self.walk.boxes([box], keep=self.top.tail)
        least = margins(self.walk.plan, self.top, values, labels, self.walk.rounding_at).amin(0)
        if self.top.softmax and getattr(self.walk.rounding, "deployed", False):
            least = least - SOFTMAX_MARGIN
        return least
