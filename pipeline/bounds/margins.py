"""Margins of a classifier, by the method asked for: ``z_y - z_j`` from below, over a region around each sample.

Pulling ``e_y - e_j`` back through the affine tail of a network, and taking the minimum over the boxes where the tail ends,
is the last-layer merge for any tail: a Gemm behind a Reshape, a BatchNorm, a pooling, a residual sum. Without an affine
tail it is ``l_y - u_j``. That is IBP; the other methods walk on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.bounds import walk
from pipeline.bounds.alpha import Search
from pipeline.bounds.footprint import Need, need
from pipeline.bounds.linear import MEMORY, Bounds, LinearWalk
from pipeline.core.interval import Interval, Lockstep, full
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Network, Plan, Step
from pipeline.core.ops import AffineBN, BatchNorm
from pipeline.core.rounding import EXACT, TINY32, Rounding
from pipeline.core.threat import Box, Region, margin_form
from pipeline.errors import InputRejected
from pipeline.methods import IBP, METHODS
from pipeline.rules import Affine, rule_for
from pipeline.rules.weights import Facts, remembering

Known = Bounds | Sequence[Interval | Tensor | None]
"""What is known of a batch before margins are taken: boxes and relaxations, or the boxes of the tail alone."""
BATCHED = (AffineBN, *get_args(BatchNorm))
"""Operators whose meaning depends on the batch while they train."""
SMALL, SMALL_BYTES = 8 * 64, 1 << 28
"""More bytes a number of the batch than any walk takes for a row, and what may be taken without measuring."""
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


def ends_tail(step: Step) -> bool:
    """Whether the last-layer merge stops before this operator: it is not affine, or its statistics are the batch's own."""
    return not isinstance(rule_for(step.op), Affine) or (isinstance(step.op, BATCHED) and step.op.training)


def margins(
    top: Head,
    values: Sequence[Interval | Tensor | None],
    labels: Int[Tensor, " batch"],
    rounding_at: Callable[[Step], Rounding] = lambda step: EXACT,
    rows: slice = slice(None),
    check: Callable[[], None] = lambda: None,
) -> Float[Tensor, "rows batch"]:
    """Lower bounds of ``z_y - z_j`` for every other class ``j`` and sample, from the boxes of the tail.

    ``values`` holds the boxes of the nodes in ``top.tail``; ``rounding_at(step)`` what each operator may add; ``rows`` picks
    some of the other classes; ``check`` is called at every node, and may raise to end the walk.
    """

    def box_at(index: int) -> Interval:
        box = values[index]
        assert isinstance(box, Interval)
        return box

    def visit(step: Step, form: LinearForm) -> Sequence[LinearForm | None] | None:
        if ends_tail(step):
            return None
        check()
        rule = rule_for(step.op)
        assert isinstance(rule, Affine)
        arguments = [x for a in step.args if (x := values[a]) is not None]
        assert len(arguments) == len(step.args), (
            "the tail keeps what it reads: another position would be another operand"
        )
        at = rule.relax(step.op, *arguments, rounding=rounding_at(step))
        return at.pull_back(form)

    logits = box_at(top.index).center
    form = margin_form(labels, logits.shape[1:], logits.dtype, rows)
    rounding = rounding_at(top.plan.steps[-1])
    frontier = walk.backward(top.plan, {top.index: form}, visit, lambda i, a, b: rounding.merge(a, b, box_at(i)))
    return rounding.total([rounding.minimum(part, box_at(index)) for index, part in frontier.items()])


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
    return Interval(full(value.center), full(value.radius)) if isinstance(value, Lockstep) else value


class MarginBounds:
    """Margins of one classifier: ``least(region, labels)`` is the least margin over the other classes, per sample.

    ``method`` is a name in ``METHODS``, which says how far the walk goes and over which boxes; a method's margins are met, row by
    row, with those of the methods before it that share its boxes. ``memory`` bounds the bytes of one batch: rows are taken in
    groups that fit, of any number of classes. ``fixed`` promises that the weights stay as they are, so that what is found out
    about them need not be found again; ``facts`` shares it with other bounds of the same network.
    """

    def __init__(
        self,
        network: Network,
        rounding: Rounding = EXACT,
        *,
        method: str = IBP,
        memory: int = MEMORY,
        search: Search | None = None,
        meet: bool = True,
        fixed: bool = False,
        facts: Facts | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        if len(network.inputs) != 1 or len(network.outputs) != 1:
            raise InputRejected(
                "margins need one input and one output; this network has "
                f"{len(network.inputs)} and {len(network.outputs)}: name the logits with `--output`."
            )
        self.top, self.method, self.search = head(network.plan()), METHODS[method], search or Search()
        self._need: Need | None = None
        self.linear = LinearWalk(
            network,
            rounding,
            self.top.plan,
            tighten=self.method.over == "tightened",
            meet=meet,
            memory=memory,
            fixed=fixed,
            facts=facts,
            check=check,
        )

    @torch.no_grad()
    def least(self, region: Region | Interval, labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The lower bound of ``min_j (z_y - z_j)``; what is not finite proves nothing."""
        parts = list(self._parts(Box(region) if isinstance(region, Interval) else region, labels))
        return torch.stack([part.amin(0) for part in parts]).amin(0) - self.needed(1 + sum(map(len, parts)))

    def needed(self, classes: int) -> float:
        """What every margin must exceed: in float32 more than zero, and more still before a Softmax that was set aside."""
        if not self.linear.rounding.deployed:
            return 0.0
        if self.top.softmax is None:
            return 2 * TINY32  # a logit that is a subnormal number, selected on the way, may be written as zero
        return softmax_gap(self.top.softmax, classes)

    @torch.no_grad()
    def rows(self, region: Region, labels: Int[Tensor, " batch"]) -> Float[Tensor, "rows batch"]:
        """The same for every other class: row ``j`` is class ``j`` below the label and ``j + 1`` from it on."""
        return torch.cat(list(self._parts(region, labels)))

    def need(self, region: Region) -> Need:
        """What bounds take of memory and work, measured once, on the first sample of a region."""
        if self._need is None:
            quick = copy.copy(self)
            quick.search = replace(self.search, steps=1, until_proved=False)
            quick.linear = copy.copy(self.linear)
            quick.linear.tighten = False
            one, label = region[:1], torch.zeros(1, dtype=torch.int64, device=region.box.center.device)
            besides = self._tightening(one)
            self._need = need(
                lambda: quick._over(one),
                lambda known, rows: quick._lower(known, label, slice(0, rows)),
                self.linear.memory,
                besides=besides,
            )
            self.linear.kept = self._need.sample
        return self._need

    def _tightening(self, one: Region) -> int:
        """Bytes that tightening the boxes of one sample takes beside the walks themselves: ends, their order, other slopes."""
        if not self.linear.tighten:
            return 0
        boxes = [v for v in self.linear.intervals.boxes([one.box], keep=walk.EVERYTHING) if isinstance(v, Interval)]
        each = [box.center.nbytes for box in boxes]
        return 12 * max(each) + sum(each)

    def _parts(self, region: Region, labels: Int[Tensor, " batch"]) -> Iterator[Tensor]:
        """Rows in order, as many at once as memory allows."""
        known = self._over(region)
        rows = self._box(known).center[0].numel() - 1
        boxes = known.values.values() if isinstance(known, Bounds) else known
        numbers = sum(v.center.numel() for v in boxes if isinstance(v, Interval))
        # What is small in any case need not be measured.
        small = SMALL * rows * numbers < min(self.linear.memory, SMALL_BYTES)
        size = rows if small else self.need(region).rows(self.linear.memory, len(labels))
        for start in range(0, rows, size):
            yield self._lower(known, labels, slice(start, start + size))

    def _over(self, region: Region) -> Known:
        """The boxes that margins are taken over."""
        if self.method.over == "tail":
            return self.linear.intervals.boxes([region.box], keep=self.top.tail)
        return self.linear.over([region])

    def _box(self, known: Known) -> Interval:
        """The box of the logits."""
        box = known.box(self.top.index) if isinstance(known, Bounds) else known[self.top.index]
        assert isinstance(box, Interval)
        return box

    def _lower(self, known: Known, labels: Tensor, rows: slice) -> Tensor:
        """Some rows of margins, by the method and, where they share its boxes, by those before it."""
        if not isinstance(known, Bounds):
            intervals = self.linear.intervals
            with remembering(intervals.facts):
                return margins(self.top, known, labels, intervals.rounding_at, rows, intervals.check)
        logits = self._box(known).center
        forms = {self.top.index: margin_form(labels, logits.shape[1:], logits.dtype, rows)}
        least = known.lower(forms)
        if self.linear.meet:
            least = torch.fmax(least, known.lower(forms, until=ends_tail))
        if known.other_slopes:
            least = torch.fmax(least, known.lower(forms, alpha=known.other_slopes))
        return self.method.improve(known, forms, least, self.search)
