"""Every node by itself: what ONNX Runtime computes in it must lie in the interval that bounds claim for it at that point.

ONNX Runtime runs the file's own graph, nothing rewritten, every value an output. Each operator of the Network is then walked
over the runtime's own values of its inputs, as boxes of radius zero, with the rounding of ``float32-any-order`` in float64: the
runtime's value of its output lies inside, whatever the order of its sums, or the operator was read wrongly. As every node
starts anew from the runtime's values, no error is hidden by a larger one, none adds up, and a step function is exact. Values
that the file does not have, such as those within an operator that became several, are walked through.

A float32 kernel that no standard bounds (Sigmoid, Softmax, LayerNormalization, ...) gets ``TOLERANCE``, relative to each
entry, and absolute where the function itself is at most one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from torch import Tensor

from pipeline.core.interval import Interval
from pipeline.core.network import Network, Step
from pipeline.core.rounding import TINY32, Outward
from pipeline.errors import InputRejected, out_of_memory
from pipeline.onnx import runtime
from pipeline.onnx.correspondence import Mismatch, in_layout_of, value_of
from pipeline.onnx.probe import exposed
from pipeline.onnx.running import running
from pipeline.onnx.tolerance import LOOSE, TOLERANCE, Tolerated, Value, loosened, positive
from pipeline.rules import rule_for
from pipeline.rules.weights import Facts, remembering
from pipeline.system.clock import look

CHUNK_BYTES = 1 << 25
"""Of the values of the points that are run at once."""


@dataclass(frozen=True)
class Difference:
    """Where the runtime first leaves what the import allows: the node, an entry of its value, and both numbers."""

    node: str
    point: int
    entry: tuple[int, ...]
    numbers: tuple[float, ...] = ()
    """The runtime's, and between which two the import's lies."""
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    """The runtime's and the import's, where those differ."""

    def told(self, network: Network) -> str:
        """The difference in words; nodes by the file's names."""
        origin = network.origin(self.node)
        if self.shapes is not None:
            theirs, ours = (list(shape) for shape in self.shapes)
            return f"the first node that differs is {origin}: its value has shape {theirs}, in the import {ours}"
        found, low, high = self.numbers
        allowed = f"{low:.9g}" if low == high else f"between {low:.9g} and {high:.9g}"
        return (
            f"the first node that differs is {origin}: entry {list(self.entry)} of its value is {found:.9g}, the import allows"
            f" {allowed} for the same inputs"
        )


@dataclass
class Agreement:
    """What was compared so far."""

    nodes: set[str] = field(default_factory=set)
    """Whose value was compared with the runtime's."""
    tolerated: set[str] = field(default_factory=set)
    """Those, and nodes walked through on the way to them, that got a tolerance instead of a bound."""
    points: int = 0
    difference: Difference | None = None
    """The first, in the file's order, at the first point that has one."""


class NodeByNode:
    """A file beside its import; ``run`` compares them at points."""

    def __init__(self, model: onnx.ModelProto, network: Network):
        self.network = network
        self._plan = network.plan().in_float64()
        origins = network.provenance.nodes
        order = {v: i for i, node in enumerate(model.graph.node) for v in node.output if v}
        # Of the nodes that an operator became, all under its value's name, the last computes it.
        last = {v: s.name for s in self._plan.steps if (v := value_of(network, s.name)) in order}
        self._known = {name: v for v, name in last.items()}
        self._axes = {name: origins[name].axes for name in self._known if name in origins}
        self._place = {name: order[v] for name, v in self._known.items()}
        wanted = dict.fromkeys([*self._known.values(), *(p.name for p in network.outputs)])
        self._session = runtime.session(exposed(model, wanted).SerializeToString(), level="off")
        made = set(self._session.outputs)
        self._names = [v for v in wanted if v in made]
        self._facts: Facts = {}

    @torch.no_grad()
    def run(self, xs: Sequence[np.ndarray], *, batch: bool, together: bool, seen: Agreement | None = None) -> Agreement:
        """Compare all nodes at points stacked along the first axis, up to the first point with a difference.

        ``batch``: that axis is the network's own batch; ``together``: the network takes several points at once, as many as memory
        does, whether or not the file does. Raises InputRejected where the network does not run, or ONNX Runtime does not.
        """
        seen, start, size = seen or Agreement(), 0, 1
        if together and (each := self._bytes_each()):
            size = max(1, min(len(xs[0]), CHUNK_BYTES // each))
        while start < len(xs[0]) and seen.difference is None:
            part = [x[start : start + size] if batch else np.asarray(x[start]) for x in xs]
            values = self._of_runtime(part, size)
            seen.difference = self._first(part, values, start, seen)
            seen.points += size
            start += size
            if together:
                each = max(1, sum(v.nbytes for v in values.values()) // size)
                size = max(1, min(len(xs[0]) - start, CHUNK_BYTES // each))
        return seen

    def _bytes_each(self) -> int:
        """Of the values of one point, as they were measured; 0 where one was not."""
        shapes = [step.shape for step in self._plan.steps if step.name in self._known]
        if None in shapes:
            return 0
        return 8 * sum(math.prod(size or 0 for size in shape[1:]) for shape in shapes if shape)

    def _of_runtime(self, part: Sequence[np.ndarray], size: int) -> dict[str, np.ndarray]:
        """Every value that is compared, by name; a file that fixes a batch of one is run for each point."""
        if size == 1 or self._session.fixed_batch is None:
            return dict(zip(self._names, self._session(*part, outputs=self._names), strict=True))
        runs = [self._session(*(x[i : i + 1] for x in part), outputs=self._names) for i in range(size)]
        # What has no axis of one in front cannot be put side by side, and is walked through.
        return {
            name: np.concatenate(one)
            for name, *one in zip(self._names, *runs, strict=True)
            if all(v.ndim and len(v) == 1 for v in one)
        }

    def _first(
        self, xs: Sequence[np.ndarray], theirs: Mapping[str, np.ndarray], start: int, seen: Agreement
    ) -> Difference | None:
        """The first difference in the file's order."""
        found: list[tuple[int, Difference]] = []
        values: dict[int, Value] = {i: getattr(owner, name) for i, owner, name in self._plan.constants}
        values |= {i: _entered(x) for i, x in zip(self._plan.inputs, xs, strict=True)}
        for step in self._plan.steps:
            look()
            ours = self._walked(step, [values[a] for a in step.args], seen)
            if (told := theirs.get(self._known.get(step.name, ""))) is not None:
                seen.nodes.add(step.name)
                try:
                    there = in_layout_of(told, self._axes.get(step.name), _shape(ours))
                    found += ((self._place[step.name], d) for d in _outside(step.name, ours, there, start))
                    ours = _anew(ours, there)
                except Mismatch as error:
                    difference = Difference(step.name, start, (), shapes=error.shapes)
                    return min([*found, (self._place[step.name], difference)], key=lambda pair: pair[0])[1]
            values[step.index] = ours
            for a in step.frees:
                del values[a]
        for port, index in zip(self.network.outputs, self._plan.outputs, strict=True):
            name = self._plan.names[index]
            try:
                there = in_layout_of(theirs.get(port.name, np.empty(0)), None, _shape(values[index]))
                found += ((len(self._place), d) for d in _outside(name, values[index], there, start))
            except Mismatch as error:
                found.append((len(self._place), Difference(name, start, (), shapes=error.shapes)))
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def _walked(self, step: Step, args: Sequence[Value], seen: Agreement) -> Value:
        """The box of one operator over those of its arguments."""
        rule, varies = rule_for(step.op), tuple(isinstance(a, Interval) for a in args)
        if any(varies) and rule is not None and rule.refuses(step.op, varies) is None:
            kernels = Tolerated(step.op, args)
            try:
                with remembering(self._facts):
                    rounding = Outward(deployed=True, kernels=kernels)
                    box = rule.interval(step.op, *loosened(step.op, args), rounding=rounding)
            except (InputRejected, RuntimeError, ValueError, IndexError) as error:
                if out_of_memory(error):
                    raise
                # This use of the operator has no bound: too many terms, or no batch in front.
            else:
                if kernels.asked:
                    seen.tolerated.add(step.name)
                return box
        with running(self.network, step, args):
            return self._plain(step, args, seen)

    def _plain(self, step: Step, args: Sequence[Value], seen: Agreement) -> Value:
        """The operator without a rule: exact where it decides or counts, where it computes with a tolerance of the magnitudes
        that it works on. Nothing is certified through it.
        """
        spread = any(isinstance(a, Interval) and bool((a.radius > 0).any()) for a in args)
        points = [a.center if isinstance(a, Interval) else a for a in args]
        made = step.op(*points)
        if not made.is_floating_point() and not spread:
            return made
        made = made.double()
        if spread:
            return Interval(made, torch.full_like(made, torch.inf))
        seen.tolerated.add(step.name)
        size = made.abs()
        with contextlib.suppress(RuntimeError):
            size = torch.fmax(size, positive(step.op, points))
        return Interval(made, size * LOOSE + 4 * TINY32)


def _entered(x: np.ndarray) -> Value:
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return _point(tensor.double()) if tensor.is_floating_point() else tensor


def _point(x: Tensor) -> Interval:
    return Interval(x, torch.zeros_like(x))


def _shape(value: Value) -> torch.Size:
    return value.center.shape if isinstance(value, Interval) else value.shape


def _anew(ours: Value, theirs: Tensor) -> Value:
    """The runtime's own value, in the kind of ours."""
    return _point(theirs.double()) if isinstance(ours, Interval) else theirs.to(ours.dtype)


def _outside(node: str, ours: Value, theirs: Tensor, start: int) -> list[Difference]:
    """The first entry of the runtime's value outside ours; an entry of ours that is not finite says nothing."""
    there = theirs.double()
    if isinstance(ours, Interval):
        low, high = ours.lower, ours.upper
    else:
        exact = ours.double()
        size = exact.abs() * TOLERANCE + TINY32 if ours.is_floating_point() else torch.zeros_like(exact)
        low, high = exact - size, exact + size
    if bool(((there >= low) & (there <= high)).all()):
        return []
    bad = (there < low) | (there > high) | (there.isnan() & low.isfinite() & high.isfinite())
    if not bool(bad.any()):
        return []
    entry = tuple(int(i) for i in bad.nonzero()[0])
    numbers = tuple(float(v.expand_as(bad)[entry]) for v in (there, low, high))
    return [Difference(node, start + (entry[0] if entry else 0), entry, numbers)]
