"""The batch axis of every value of a graph, which proves that no sample of a batch influences another.

Each value that depends on the data has one batch axis (``BatchAxis``), the first one at the inputs; each value that is computed
from shapes is a function of the batch size (``Symbolic``). The rule of an operator (``rules.py``, ``moves.py``) computes the
batch axis of its result from those of its operands. An operator is refused by name where it mixes samples, moves the batch
where it cannot be tracked, reads a number that depends on the batch size, or has no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import GraphProto

from pipeline.errors import InputRejected
from pipeline.onnx.batch.axis import BatchAxis, Untraceable
from pipeline.onnx.batch.registry import rule_of
from pipeline.onnx.batch.symbolic import Symbolic, evaluate, shape_of
from pipeline.onnx.ir import Draft, Node
from pipeline.onnx.names import shown


class BatchTrace:
    """One pass over the nodes of a draft whose inputs have the batch in the first axis.

    ``runs`` are all values measured with 2 and with 3 samples, where the file can be run so; what is computed here must agree.
    """

    def __init__(self, draft: Draft, runs: Sequence[Mapping[str, np.ndarray]] = (), *, normal: bool = False):
        self.draft, self.runs = draft, runs
        self.normal = normal
        """Whether the graph is the normalised one, where a constant with one entry along the batch axis broadcasts."""
        self.opset = 23 if normal else draft.opset
        self.batch_axes = {v: BatchAxis(0) for v in draft.inputs}
        self.symbolic: dict[str, Symbolic] = {}
        """Values that depend on the batch size alone."""
        self.constant = set(draft.constants)
        """Values that are the same whatever the inputs and their shapes."""
        self.untraceable: dict[str, str] = {}
        """By value that is computed from shapes but is not ``symbolic``: the reason."""
        self.refusals: dict[int, str] = {}
        """By the index of a node: the reason."""
        self.unknown: set[str] = set()
        """Values that depend on the output of a refused node."""
        self.needed = draft.needed()
        self.nodes, self.outputs = tuple(draft.nodes), tuple(draft.outputs)
        for index, node in enumerate(self.nodes):
            self._visit(index, node)

    def _visit(self, index: int, node: Node) -> None:
        inputs = [v for v in node.inputs if v]
        outputs = [v for v in node.outputs if v]
        try:
            if self.unknown.intersection(inputs):
                self.unknown.update(outputs)
            elif any(isinstance(node.attributes.peek(a), GraphProto) for a in node.attributes):
                raise Untraceable("it holds a graph of its own")
            elif node.op_type in ("Shape", "Size") or self.batch_axes.keys().isdisjoint(inputs):
                self._visit_shapes(node, inputs, outputs)
            elif (rule := rule_of(node.op_type)) is None:
                raise Untraceable("where its samples stand is not known")
            else:
                batch = rule(self, node)
                for value in outputs:
                    self._set_batch_axis(value, batch)
        except (Untraceable, AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
            self.refusals[index] = (
                str(error) if isinstance(error, Untraceable) else "where its samples stand is not known"
            )
            self.unknown.update(outputs)

    def _set_batch_axis(self, value: str, batch: BatchAxis) -> None:
        shapes = [np.shape(run[value]) for run in self.runs if value in run]
        for samples, shape in zip((2, 3), shapes, strict=False):
            one_sample = batch.sample_shape(shapes[0], 2)
            expected = tuple(samples * d if i == batch.axis else d for i, d in enumerate(one_sample))
            if shape != expected:
                raise Untraceable("its shape is no product of the number of samples")
        self.batch_axes[value] = batch

    def _visit_shapes(self, node: Node, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """An operator on values that do not depend on the data."""
        if reasons := [self.untraceable[v] for v in inputs if v in self.untraceable]:
            self.untraceable.update(dict.fromkeys(outputs, reasons[0]))
        elif node.op_type in ("Shape", "Size"):
            (value,) = inputs
            if self.batch_axis(value) is None:
                self.constant.update(outputs)
                return
            x = shape_of(self.sample_shape(value), self.batch_axis(value))
            if node.op_type == "Shape":
                part = slice(node.attributes.peek("start", 0), node.attributes.peek("end"))
                x = x.map(lambda v: v[part])
            else:
                x = Symbolic.of(np.array(0), int(np.prod(x.base + x.slope)))
            self._set_symbolic(outputs[0], x)
        elif all(v in self.constant for v in inputs):
            self.constant.update(outputs)
        else:
            try:
                try:
                    result = evaluate(node, [self._symbolic(v) if v else None for v in node.inputs])
                except Untraceable as error:
                    result = self._same_for_every_sample(node, error)
                self._set_symbolic(outputs[0], result)
            except (Untraceable, IndexError, ValueError, TypeError) as error:
                reason = str(error) if isinstance(error, Untraceable) else "it cannot be computed"
                self.untraceable.update(dict.fromkeys(outputs, f"{self.describe(node)}: {reason}"))

    def _same_for_every_sample(self, node: Node, error: Untraceable) -> Symbolic:
        """The result of an operator whose operands are the same for every sample, where it keeps samples apart.

        Raises ``error`` where that does not apply.
        """
        varying = [self.symbolic[v] for v in node.inputs if v in self.symbolic]
        rule = rule_of(node.op_type)
        if rule is None or not self.runs or not all(v.uniform for v in varying):
            raise error
        batch = rule(self, node)
        measured = np.asarray(self.runs[0][node.output])
        if batch.outer != 1:
            raise Untraceable("it folds samples into another axis")
        one_sample = measured.take(range(batch.inner), batch.axis)
        return Symbolic.of(one_sample, axis=batch.axis)

    def _set_symbolic(self, value: str, symbolic: Symbolic) -> None:
        for samples, run in zip((2, 3), self.runs, strict=False):
            if value in run and not symbolic.equals(samples, np.asarray(run[value])):
                raise Untraceable("it is no function of the batch size that is known")
        if symbolic.constant and self.runs:
            self.constant.add(value)
        else:
            self.symbolic[value] = symbolic

    def batch_axis(self, value: str) -> BatchAxis | None:
        """The batch axis of a value, None for a constant. Raises Untraceable for one that depends on the batch size as data."""
        if value in self.batch_axes:
            return self.batch_axes[value]
        if value in self.untraceable:
            raise Untraceable(f"it reads a value that depends on the batch size ({self.untraceable[value]})")
        if value in self.symbolic:
            symbolic = self.symbolic[value]
            if not symbolic.uniform:
                raise Untraceable("it reads a number that depends on the batch size, as data")
            return symbolic.batch_axis
        return None

    def sizes(self, value: str) -> Symbolic:
        """A value that is read as sizes, axes or indices. Raises Untraceable where it is computed from data or not symbolic."""
        if value in self.untraceable:
            raise Untraceable(f"it reads a size that depends on the batch size ({self.untraceable[value]})")
        if value in self.batch_axes:
            raise Untraceable("it takes sizes or indices that are computed from data")
        return self._symbolic(value)

    def _symbolic(self, value: str) -> Symbolic:
        if value in self.symbolic:
            return self.symbolic[value]
        if value in self.draft.constants:
            return Symbolic.of(self.draft.constants[value])
        if not self.runs or value not in self.runs[0]:
            raise Untraceable("a value that it reads was not measured")
        return Symbolic.of(np.asarray(self.runs[0][value]))

    def numbers(self, node: Node, attribute: str, position: int) -> list[int] | None:
        """Integers that older opsets hold in an attribute and newer ones in an input; None where they are left out."""
        values = node.attributes.peek(attribute)
        if values is not None:
            return [int(v) for v in np.atleast_1d(values)]
        if not node.input(position):
            return None
        value = self.sizes(node.input(position))
        if not value.constant:
            raise Untraceable("its axes or indices depend on the batch size")
        return [int(v) for v in value.base.reshape(-1)]

    def sample_shape(self, value: str) -> tuple[int, ...]:
        """The shape of a value at a batch of one."""
        if value in self.symbolic:
            return tuple(self.symbolic[value].base.shape)
        if value in self.draft.constants:
            return self.draft.constants[value].shape
        shape = np.shape(self.runs[0][value]) if self.runs and value in self.runs[0] else self.draft.shapes.get(value)
        if shape is None:
            raise Untraceable("the shape of what it reads was not measured")
        batch = self.batch_axes.get(value)
        samples = self.draft.shapes[self.draft.inputs[0]][0]
        return tuple(shape) if batch is None else batch.sample_shape(shape, samples)

    def describe(self, node: Node) -> str:
        """A node for a message, by the names that the file has for it."""
        origin = next((self.draft.origins[v] for v in node.outputs if v in self.draft.origins), None)
        if origin is None:
            return shown(node.op_type)
        return f"{shown(origin.op_type)} '{shown(origin.name or origin.output, 60)}'"

    def require(self, ignored: Callable[[str], bool] = lambda op_type: False) -> None:
        """Raise InputRejected naming every operator that the outputs depend on and that does not keep samples apart.

        ``ignored`` tells of which operators another check reports.
        """
        refusals = {
            i: reason for i, reason in self.refusals.items() if not self.needed.isdisjoint(self.nodes[i].outputs)
        }
        problems = [
            f"{self.describe(self.nodes[i])}: {reason}"
            for i, reason in refusals.items()
            if not ignored(self.nodes[i].op_type)
        ]
        producers = {value: f", of {self.describe(node)}," for node in self.nodes for value in node.outputs}
        for value in () if refusals else self.outputs:
            output = f"an output{producers.get(value, '')}"
            try:
                batch = self.batch_axis(value)
            except Untraceable as error:
                problems.append(f"{output}: {error}")
                continue
            if batch is None or value not in self.batch_axes:
                problems.append(f"{output} does not depend on the input")
            elif batch.axis or not batch.one_entry_per_sample:
                problems.append(f"{output} has its samples in axis {batch.axis}, or not alone there")
        if problems:
            listing = "; ".join(dict.fromkeys(problems))
            raise InputRejected(
                "The samples of a batch must not influence one another, and nothing but shapes may depend on their number; here"
                f" they may. {listing[:1500]}. Export the model with the batch first and each sample by itself."
            )
