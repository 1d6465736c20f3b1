"""Margins of a classifier, by the method asked for: ``z_y - z_j`` from below, over a region around each sample.

Pulling ``e_y - e_j`` back through the affine tail of a network, and taking the minimum over the boxes where the tail ends,
is the last-layer merge for any tail: a Gemm behind a Reshape, a BatchNorm, a pooling, a residual sum. Without an affine
tail it is ``l_y - u_j``. That is IBP; the other methods walk on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.bounds import walk
from pipeline.bounds.rows import RowBounds, affine_tail, ends_tail
from pipeline.bounds.specification import Specification
from pipeline.core.floating_point import TINY32
from pipeline.core.interval import Interval, Lockstep, at_least_float32
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Network, Plan, Step
from pipeline.core.rounding import EXACT, Rounding
from pipeline.core.threat import Box, Region
from pipeline.errors import InputRejected
from pipeline.rules import Affine, rule_for

PAIRS = 64
"""Up to how many classes training tabulates ``|W_i - W_j|``: the table and its product grow with their square."""
KERNEL = 2.0**-19
"""What a float32 Exp or Log may err by, relative to its result: 16 ulp of at most ``2^-23``."""


def softmax_gap(op: nn.Softmax | nn.LogSoftmax, classes: int) -> float:
    """How far the label's logit must lie above every other, so that no float32 Softmax makes a tie of them or less.

    A Softmax computes ``e_j = exp(fl(z_j - z_y))``, ``z_y`` being the largest logit, and ``p_j = fl(e_j / s)``, or ``fl(e_j
    fl(1/s))``, with one ``s`` for all classes. With ``u = 2^-24``, ``k = KERNEL``, a gap ``g``: ``fl(z_j - z_y) <= -g (1 - u)``,
    so ``e_y/e_j >= (1 - k)/(1 + k) exp(g (1 - u))``, whatever underflows in ``e_j``; and ``p_y``, which is at least about
    ``1/K``, is no subnormal number. The rounding of ``p`` takes ``(1 - u)/(1 + u)`` more. Hence ``p_y > p_j`` as soon as
    ``g (1 - u) > log((1 + k)(1 + u)/((1 - k)(1 - u)))``, which is at most ``2.2 k``: ``g = 4 k`` however many classes there are.

    A LogSoftmax may be the logarithm of that, of size ``log K`` and more, where floats are further apart and the Log errs by
    ``k |log p|``: ``log p_y`` and ``log p_j`` differ by ``d >= g (1 - u) - 2.2 k``, and the results are apart as soon as
    ``d (1 - k) > 2 k |log p_y|``, with ``|log p_y| <= log K + 4 k``: ``g = 4 k (1 + log K)``. Computed as ``fl(t_j - log s)``,
    or as ``fl(z_j - log sum exp z)``, it asks for less: the subtrahend is one for all classes, and the last rounding is
    within ``u |log p|``.
    """
    return 4 * KERNEL * (1 + (math.log(classes) if isinstance(op, nn.LogSoftmax) else 0.0))


@dataclass(frozen=True)
class Head:
    """The classifier's end: the plan up to its logits, and the nodes that margins read."""

    plan: Plan
    index: int
    """The node of the logits, the output of ``plan``."""
    softmax: nn.Softmax | nn.LogSoftmax | None
    """The final Softmax that was set aside."""
    tail: frozenset[int]
    """The affine tail, and the frontier where it ends."""


def head(plan: Plan) -> Head:
    """Where the logits of a classifier with one output are, and the affine tail that leads to them."""
    plan, softmax = plan.before_softmax()
    (index,) = plan.outputs
    return Head(plan, index, softmax, affine_tail(plan))


def margin_form(labels: Int[Tensor, " batch"], shape: Sequence[int], dtype: torch.dtype) -> LinearForm:
    """The rows of ``Specification.margins`` over logits of shape ``(batch, *shape)``."""
    classes = math.prod(shape)
    form = Specification.margins(labels, classes).form(classes, dtype)
    return LinearForm(form.coeff.reshape(*form.const.shape, *shape), form.const)


def margins(
    top: Head, values: Sequence[Interval | Tensor | None], labels: Int[Tensor, " batch"]
) -> Float[Tensor, "rows batch"]:
    """Lower bounds of ``z_y - z_j`` for every other class ``j`` and sample, rounding left out, from the boxes of the tail.

    ``values`` holds the boxes of the nodes in ``top.tail``.
    """

    def box_at(index: int) -> Interval:
        box = values[index]
        assert isinstance(box, Interval)
        return box

    def visit(step: Step, form: LinearForm) -> Sequence[LinearForm | None] | None:
        if ends_tail(step):
            return None
        rule = rule_for(step.op)
        assert isinstance(rule, Affine)
        arguments = [x for a in step.args if (x := values[a]) is not None]
        assert len(arguments) == len(step.args), (
            "the tail keeps what it reads: another position would be another operand"
        )
        return rule.relax(step.op, *arguments, rounding=EXACT).pull_back(form)

    logits = box_at(top.index).center
    form = margin_form(labels, logits.shape[1:], logits.dtype)
    frontier = walk.backward(top.plan, {top.index: form}, visit, lambda i, a, b: EXACT.merge(a, b, box_at(i)))
    return EXACT.total([EXACT.minimum(part, box_at(index)) for index, part in frontier.items()])


def lockstep_margins(top: Head, values: Sequence[Lockstep | Tensor | None], labels: Int[Tensor, " batch"]) -> Tensor:
    """The same from the values of a training walk, differentiable in the weights; never in bfloat16."""
    tail = [_in_full(v) if i in top.tail else None for i, v in enumerate(values)]
    last = top.plan.steps[-1]
    with torch.autocast(labels.device.type, enabled=False):
        alone = last.index == top.index and top.tail == {top.index, *last.args}
        if alone and isinstance(last.op, nn.Linear) and last.op.out_features <= PAIRS:
            box = tail[last.args[0]]
            if isinstance(box, Interval) and box.center.dim() == 2:
                return _by_pairs(last.op, box, labels)
        return margins(top, tail, labels)


def _by_pairs(op: nn.Linear, box: Interval, labels: Int[Tensor, " batch"]) -> Float[Tensor, "rows batch"]:
    """``z_y - z_j - |W_y - W_j| r`` where one Linear layer is the tail: one product for all pairs of classes."""
    classes = op.out_features
    center = nn.functional.linear(box.center, op.weight, op.bias)
    pairs = (op.weight[:, None] - op.weight).abs().flatten(0, 1)
    radius = nn.functional.linear(box.radius, pairs).unflatten(1, (classes, classes))
    own = labels[:, None]
    least = center.gather(1, own) - center - radius.gather(1, own[:, None].expand(-1, -1, classes)).squeeze(1)
    rows = torch.arange(classes - 1, device=labels.device)
    return least.gather(1, rows + (rows >= own)).T


def _in_full(value: Lockstep | Tensor | None) -> Interval | Tensor | None:
    return (
        Interval(at_least_float32(value.center), at_least_float32(value.radius))
        if isinstance(value, Lockstep)
        else value
    )


class MarginBounds(RowBounds):
    """Margins of one classifier: ``least(region, labels)`` is the least margin over the other classes, per sample.

    Raises InputRejected (3) for a network of several inputs or outputs.
    """

    def __init__(self, network: Network, rounding: Rounding = EXACT, **how: Any):
        if len(network.inputs) != 1 or len(network.outputs) != 1:
            raise InputRejected(
                "margins need one input and one output; this network has "
                f"{len(network.inputs)} and {len(network.outputs)}: name the logits with `--output`."
            )
        self.top = head(network.plan())
        super().__init__(network, rounding, plan=self.top.plan, **how)

    @torch.no_grad()
    def least(self, region: Region | Interval, labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The lower bound of ``min_j (z_y - z_j)``; what is not finite proves nothing."""
        rows = self.rows(Box(region) if isinstance(region, Interval) else region, labels)
        return rows.amin(0) - self.needed(1 + len(rows))

    @torch.no_grad()
    def rows(self, region: Region, labels: Int[Tensor, " batch"]) -> Float[Tensor, "rows batch"]:
        """The same for every other class: row ``j`` is class ``j`` below the label and ``j + 1`` from it on."""
        bounds = self.over([region])
        return self.lower(bounds, Specification.margins(labels, bounds.box(self.top.index).center[0].numel()))

    def needed(self, classes: int) -> float:
        """What every margin must exceed: in float32 more than zero, and more still before a Softmax that was set aside."""
        if not self.linear.rounding.deployed:
            return 0.0
        if self.top.softmax is None:
            return 2 * TINY32  # a logit that is a subnormal number, selected on the way, may be written as zero
        return softmax_gap(self.top.softmax, classes)
