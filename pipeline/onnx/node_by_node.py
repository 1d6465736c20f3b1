"""Compares every node by itself: ONNX Runtime's value must lie in the interval that the bounds claim for it at that point.

ONNX Runtime runs the file's own graph without optimisation, with every value as an output. Each operator of the Network is then
evaluated on the runtime's own values of its inputs, as boxes of radius zero, with the rounding of ``float32-any-order``, in
float64: unless the runtime's output lies inside, the operator was imported wrongly. As every node starts from the runtime's
values, errors neither add up nor hide each other, and step functions are exact. Values that the file does not have, such as
those within an operator that became several, are computed from the boxes before them.

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

from pipeline.core.floating_point import TINY32
from pipeline.core.interval import Interval
from pipeline.core.network import Network, Step
from pipeline.core.outward import Outward
from pipeline.errors import InputRejected, out_of_memory
from pipeline.onnx import runtime
from pipeline.onnx.correspondence import Mismatch, in_layout_of, value_of
from pipeline.onnx.difference import Difference, entry_outside
from pipeline.onnx.probe import with_outputs
from pipeline.onnx.running import running
from pipeline.onnx.tolerance import TOLERANCE_WITHOUT_RULE, Tolerated, Value, sum_of_magnitudes, widen_inputs
from pipeline.rules import rule_for
from pipeline.rules.weights import Facts, remembering
from pipeline.system.clock import check_time

CHUNK_BYTES = 1 << 25
"""The size of the values of the points that are run at once."""


@dataclass
class Agreement:
    """What was compared so far."""

    nodes: set[str] = field(default_factory=set)
    """Nodes whose value was compared with the runtime's."""
    tolerated: set[str] = field(default_factory=set)
    """Nodes, compared or between compared ones, that got a tolerance instead of a bound."""
    points: int = 0
    difference: Difference | None = None
    """The first one in the file's order, at the first point with any."""


class NodeByNode:
    """Compares a file with its import, at points that ``run`` gets."""

    def __init__(self, model: onnx.ModelProto, network: Network):
        self.network = network
        self._plan = network.plan().in_float64()
        origins = network.provenance.nodes
        order = {v: i for i, node in enumerate(model.graph.node) for v in node.output if v}
        # Where an operator became several nodes, all have its value's name, and the last one computes it.
        last = {v: s.name for s in self._plan.steps if (v := value_of(network, s.name)) in order}
        self._known = {name: v for v, name in last.items()}
        self._axes = {name: origins[name].axes for name in self._known if name in origins}
        self._place = {name: order[v] for name, v in self._known.items()}
        values = dict.fromkeys([*self._known.values(), *(p.name for p in network.outputs)])
        self._session = runtime.session(with_outputs(model, values).SerializeToString(), level="off")
        available = set(self._session.outputs)
        self._names = [v for v in values if v in available]
        self._facts: Facts = {}

    @torch.no_grad()
    def run(
        self, xs: Sequence[np.ndarray], *, batch: bool, together: bool, agreement: Agreement | None = None
    ) -> Agreement:
        """Compare all nodes at points stacked along the first axis, up to the first point with a difference.

        ``batch``: that axis is the network's own batch; ``together``: the network may take several points at once, as many as fit
        into ``CHUNK_BYTES``, even where the file takes one. Raises InputRejected where the network or ONNX Runtime
        does not run.
        """
        agreement, start, size = agreement or Agreement(), 0, 1
        if together and (point_bytes := self._bytes_each()):
            size = max(1, min(len(xs[0]), CHUNK_BYTES // point_bytes))
        while start < len(xs[0]) and agreement.difference is None:
            part = [x[start : start + size] if batch else np.asarray(x[start]) for x in xs]
            values = self._of_runtime(part, size)
            agreement.difference = self._first(part, values, start, agreement)
            agreement.points += size
            start += size
            if together:
                point_bytes = max(1, sum(v.nbytes for v in values.values()) // size)
                size = max(1, min(len(xs[0]) - start, CHUNK_BYTES // point_bytes))
        return agreement

    @torch.no_grad()
    def outside(self, xs: Sequence[np.ndarray], outputs: Mapping[str, np.ndarray]) -> Difference | None:
        """The first entry of ``outputs`` that lies outside the bounds propagated from ``xs``, one point; None where none does."""
        return self._first(xs, outputs, 0, Agreement())

    def _bytes_each(self) -> int:
        """The size of all compared values of one point, by their measured shapes; 0 where one was not measured."""
        shapes = [step.shape for step in self._plan.steps if step.name in self._known]
        if None in shapes:
            return 0
        return 8 * sum(math.prod(size or 0 for size in shape[1:]) for shape in shapes if shape)

    def _of_runtime(self, part: Sequence[np.ndarray], size: int) -> dict[str, np.ndarray]:
        """The runtime's values by name; a file that fixes a batch of one is run for each point."""
        if size == 1 or self._session.fixed_batch is None:
            return dict(zip(self._names, self._session(*part, outputs=self._names), strict=True))
        runs = [self._session(*(x[i : i + 1] for x in part), outputs=self._names) for i in range(size)]
        # A value without a batch axis of one cannot be concatenated, and is not compared.
        return {
            name: np.concatenate(one)
            for name, *one in zip(self._names, *runs, strict=True)
            if all(v.ndim and len(v) == 1 for v in one)
        }

    def _first(
        self, xs: Sequence[np.ndarray], runtime_values: Mapping[str, np.ndarray], start: int, agreement: Agreement
    ) -> Difference | None:
        """The first difference in the file's order."""
        differences: list[tuple[int, Difference]] = []
        values: dict[int, Value] = {i: getattr(owner, name) for i, owner, name in self._plan.constants}
        values |= {i: _input_value(x) for i, x in zip(self._plan.inputs, xs, strict=True)}
        for step in self._plan.steps:
            check_time()
            value = self._walk(step, [values[a] for a in step.args], agreement)
            if (runtime_value := runtime_values.get(self._known.get(step.name, ""))) is not None:
                agreement.nodes.add(step.name)
                try:
                    tensor = in_layout_of(runtime_value, self._axes.get(step.name), _shape(value))
                    differences += ((self._place[step.name], d) for d in entry_outside(step.name, value, tensor, start))
                    value = _runtime_point(value, tensor)
                except Mismatch as error:
                    difference = Difference(step.name, start, (), shapes=error.shapes)
                    return min([*differences, (self._place[step.name], difference)], key=lambda pair: pair[0])[1]
            values[step.index] = value
            for a in step.frees:
                del values[a]
        for port, index in zip(self.network.outputs, self._plan.outputs, strict=True):
            name = self._plan.names[index]
            try:
                tensor = in_layout_of(runtime_values.get(port.name, np.empty(0)), None, _shape(values[index]))
                differences += ((len(self._place), d) for d in entry_outside(name, values[index], tensor, start))
            except Mismatch as error:
                differences.append((len(self._place), Difference(name, start, (), shapes=error.shapes)))
        return min(differences, key=lambda pair: pair[0])[1] if differences else None

    def _walk(self, step: Step, args: Sequence[Value], agreement: Agreement) -> Value:
        """The box of one operator's output from those of its arguments."""
        rule, varies = rule_for(step.op), tuple(isinstance(a, Interval) for a in args)
        if any(varies) and rule is not None and rule.refuses(step.op, varies) is None:
            kernels = Tolerated(step.op, args)
            try:
                with remembering(self._facts):
                    rounding = Outward(deployed=True, kernels=kernels)
                    box = rule.interval(step.op, *widen_inputs(step.op, args), rounding=rounding)
            except (InputRejected, RuntimeError, ValueError, IndexError) as error:
                if out_of_memory(error):
                    raise
                # This use of the operator has no bound: for example, too many terms, or no batch axis.
            else:
                if kernels.used:
                    agreement.tolerated.add(step.name)
                return box
        with running(self.network, step, args):
            return self._plain(step, args, agreement)

    def _plain(self, step: Step, args: Sequence[Value], agreement: Agreement) -> Value:
        """The output of an operator without a bound: exact for booleans and integers, else with a tolerance relative to the
        magnitudes of its terms. Nothing is certified through it.
        """
        has_radius = any(isinstance(a, Interval) and bool((a.radius > 0).any()) for a in args)
        points = [a.center if isinstance(a, Interval) else a for a in args]
        output = step.op(*points)
        if not output.is_floating_point() and not has_radius:
            return output
        output = output.double()
        if has_radius:
            return Interval(output, torch.full_like(output, torch.inf))
        agreement.tolerated.add(step.name)
        size = output.abs()
        with contextlib.suppress(RuntimeError):
            size = torch.fmax(size, sum_of_magnitudes(step.op, points))
        return Interval(output, size * TOLERANCE_WITHOUT_RULE + 4 * TINY32)


def _input_value(x: np.ndarray) -> Value:
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return _point(tensor.double()) if tensor.is_floating_point() else tensor


def _point(x: Tensor) -> Interval:
    return Interval(x, torch.zeros_like(x))


def _shape(value: Value) -> torch.Size:
    return value.center.shape if isinstance(value, Interval) else value.shape


def _runtime_point(value: Value, runtime_value: Tensor) -> Value:
    """The runtime's value as a box of radius zero, or as a tensor where ``value`` is one."""
    return _point(runtime_value.double()) if isinstance(value, Interval) else runtime_value.to(value.dtype)
