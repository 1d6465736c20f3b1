"""Values whose batch axis is not the first, as tensors in which it is, and the pass that tracks them through a graph.

Where a file moves the batch to another axis, or folds it into one, each axis of its value is a product of axes of a tensor
that has the batch in front and one axis for each factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.onnx.ir import Attributes, Draft, Node
from pipeline.onnx.operators import TABLE

Group = tuple[int, ...]
BATCH = 0


class NoBatchFirstForm(Exception):
    """The pass cannot write an operator with the batch in front: the graph is left as it is, and the operator refused later."""


@dataclass(frozen=True)
class BatchFirstValue:
    """A value of the file as the tensor ``name``, of shape ``(batch, *sizes)``.

    ``axes``: each axis of the file's value as a product of axes of the tensor, the slowest first; an axis of the tensor that is
    in none of them has size one.
    """

    name: str
    sizes: tuple[int, ...]
    axes: tuple[Group, ...]

    @property
    def batch_axis(self) -> int:
        """The axis of the file's value that holds the batch."""
        return next(i for i, group in enumerate(self.axes) if BATCH in group)

    def tensor_axis(self, axis: int) -> int:
        """The axis of the tensor that is an axis of the file's value, in canonical form. Raises for the batch axis."""
        if BATCH in self.axes[axis]:
            raise NoBatchFirstForm
        return self.axes[axis][0]

    def with_size(self, name: str, axis: int, size: int) -> BatchFirstValue:
        """The tensor ``name``, in which one axis has another size."""
        return replace(self, name=name, sizes=(*self.sizes[: axis - 1], size, *self.sizes[axis:]))

    def without(self, file_axes: Sequence[int]) -> BatchFirstValue:
        """Without some axes of the file's value, which are removed from the tensor too."""
        dropped_axes = sorted(self.tensor_axis(axis) for axis in file_axes)
        groups = [group for i, group in enumerate(self.axes) if i not in file_axes]
        axes = tuple(tuple(a - sum(g < a for g in dropped_axes) for a in group) for group in groups)
        return BatchFirstValue(self.name, tuple(s for i, s in enumerate(self.sizes, 1) if i not in dropped_axes), axes)


def permutation(node: Node, rank: int) -> Sequence[int]:
    """The ``perm`` of a Transpose; by default it reverses the axes."""
    return node.attributes.get("perm", range(rank)[::-1])


class BatchFirstPass:
    """One pass over the nodes of a draft; ``runs``: the file's values at batches of two and three, or at its fixed batch of one.

    Its methods raise NoBatchFirstForm for what has no such form.
    """

    def __init__(self, draft: Draft, runs: Sequence[Mapping[str, np.ndarray]], kinds: Mapping[str, str]):
        self.draft, self.runs, self.kinds = draft, runs, kinds
        self.shapes = [{name: np.shape(value) for name, value in run.items()} for run in runs]
        self.values: dict[str, BatchFirstValue] = {}
        """By value of the file, where its batch axis is not the first."""
        self.aliases: dict[str, str] = {}
        """By value of the file that has the batch in front again: the tensor that equals it."""
        self.new_nodes: list[Node] = []
        """Those that replace the node at hand."""

    def nodes(self, rewrite_of: Callable[[str], Rewrite | None]) -> Iterator[Node]:
        """The nodes of the rewritten graph, in order; ``rewrite_of`` finds the rewriting of an operator."""
        for node in self.draft.nodes:
            if not self.moves_batch_aside(node) and self.values.keys().isdisjoint(node.inputs):
                yield node
                continue
            rewrite = rewrite_of(node.op_type)
            if rewrite is None or len(node.outputs) > 1 or not self.has_static_settings(node):
                raise NoBatchFirstForm
            self.new_nodes = []
            self.bind(node, rewrite(self, node))
            yield from self.new_nodes
        if not self.values.keys().isdisjoint(self.draft.outputs):
            raise NoBatchFirstForm

    def has_static_settings(self, node: Node) -> bool:
        """Whether inputs that are no operands, such as target shapes and indices, do not depend on the data."""
        entry = TABLE.get(node.op_type)
        has_operands = node.op_type in ("MatMul", "Concat") or (
            entry is not None and entry.pointwise and entry.inputs == 2
        )
        settings = [] if has_operands else node.inputs[1:]
        return all(not v or v in self.draft.constants or self.kinds.get(v) == "shape" for v in settings)

    def moves_batch_aside(self, node: Node) -> bool:
        """Whether the batch is in front in the node's input and not in its output."""
        if node.op_type not in ("Transpose", "Reshape", "Unsqueeze") or not self.has_batch_first(node.inputs[0]):
            return False
        if node.op_type == "Transpose":
            return permutation(node, len(self.shapes[0][node.inputs[0]]))[0] != 0
        return not self.has_batch_first(node.output)

    def has_batch_first(self, value: str) -> bool:
        if value in self.draft.constants or value not in self.shapes[0]:
            return False
        return self.dims(value)[:1] in ([(True, 1)], [(None, 1)])

    def dims(self, value: str) -> list[tuple[bool | None, int]]:
        """For each axis of a value of the file: whether it holds the batch, and its size for one sample.

        The former is None where the file fixes a batch of one, which may then be any axis.
        """
        if any(value not in run for run in self.shapes):
            raise NoBatchFirstForm
        if len(self.shapes) == 1:
            return [(None, size) for size in self.shapes[0][value]]
        size_pairs = list(zip(*(run[value] for run in self.shapes), strict=True))
        if any(two != three and two * 3 != three * 2 for two, three in size_pairs):
            raise NoBatchFirstForm
        return [(two != three, three - two if two != three else two) for two, three in size_pairs]

    def value_of(self, value: str) -> BatchFirstValue:
        if value in self.values:
            return self.values[value]
        if not self.has_batch_first(value):
            raise NoBatchFirstForm
        sizes = tuple(size for _, size in self.dims(value)[1:])
        return BatchFirstValue(value, sizes, tuple((i,) for i in range(len(sizes) + 1)))

    def canonical_value(self, value: str, node: Node) -> BatchFirstValue:
        return self.canonicalise(self.value_of(value), node)

    def canonicalise(self, x: BatchFirstValue, node: Node) -> BatchFirstValue:
        """``x`` in canonical form: the batch, the product of the factors folded into its axis before it, that of those behind
        it, then one axis for each other axis of the file's value.
        """
        first, rest = x.axes[x.batch_axis], [group for group in x.axes if BATCH not in group]
        position = first.index(BATCH)
        groups = [group for group in (first[:position], first[position + 1 :]) if group] + rest
        order = [BATCH, *(a for group in groups for a in group)]
        order += [a for a in range(1, len(x.sizes) + 1) if a not in order]
        name, sizes = x.name, tuple(x.sizes[a - 1] for a in order[1:])
        if order != sorted(order):
            name = self.emit(node, "Transpose", [name], sizes, perm=order)
        if (merged_sizes := tuple(math.prod(x.sizes[a - 1] for a in group) for group in groups)) != sizes:
            name = self.emit(node, "Reshape", [name, self.reshape_target(merged_sizes)], merged_sizes)
        folded_axes = range(1, 1 + len(groups) - len(rest))
        batch_group = (*folded_axes[: bool(position)], BATCH, *folded_axes[bool(position) :])
        axes = iter(range(len(batch_group), len(groups) + 1))
        return BatchFirstValue(
            name, merged_sizes, tuple(batch_group if BATCH in group else (next(axes),) for group in x.axes)
        )

    def bind(self, node: Node, result: BatchFirstValue) -> None:
        """Record the result of a node, under the file's own name where the batch is in front again."""
        if result.axes[0] != (BATCH,):
            self.values[node.output] = result
            if result.name in self.draft.origins and any(result.name == n.output for n in self.new_nodes):
                self.draft.origins[result.name] = replace(self.draft.origins[result.name], axes=result.axes)
            return
        name = self.canonicalise(result, node).name
        if self.new_nodes and self.new_nodes[-1].output == name:
            self.new_nodes[-1].outputs = [node.output]
        else:
            self.aliases[node.output] = name

    def emit(
        self, node: Node, op_type: str, inputs: list[str], sizes: Sequence[int], domain: str = "", **attributes: Any
    ) -> str:
        """Add a node that replaces one of the file; returns the name of its value."""
        name, draft = self.draft.fresh(), self.draft
        draft.shapes[name] = (len(self.shapes), *sizes)  # the first probe has two samples, or one
        draft.dtypes[name] = draft.dtypes.get(node.output, np.dtype(np.float32))
        if node.output in draft.origins:
            draft.origins[name] = replace(draft.origins[node.output], axes=())
        self.new_nodes.append(Node(op_type, inputs, [name], Attributes(attributes), domain))
        return name

    def repeat(self, node: Node, inputs: list[str], sizes: Sequence[int], **changes: Any) -> str:
        """Add the node's own operator on other values; returns the name of its value."""
        name = self.emit(node, node.op_type, inputs, sizes, node.domain)
        self.new_nodes[-1].attributes = node.attributes | changes
        return name

    def reshape_target(self, sizes: Sequence[int]) -> str:
        return self.draft.constant(np.array([-1, *sizes], np.int64))

    def numbers(self, value: str) -> list[int]:
        return [int(v) for v in np.atleast_1d(self.constant(value))]

    def constant(self, value: str) -> np.ndarray:
        if value not in self.draft.constants:
            raise NoBatchFirstForm
        return self.draft.constants[value]

    def broadcast_constant(self, value: str, x: BatchFirstValue) -> str:
        """A constant that the file broadcasts against the value ``x``, shaped to broadcast against its canonical tensor."""
        array = self.constant(value)
        if array.ndim < len(x.axes) - x.batch_axis:
            return value
        shape = (1,) * (len(x.axes) - array.ndim) + array.shape
        if len(shape) > len(x.axes) or shape[x.batch_axis] != 1:
            raise NoBatchFirstForm
        shape = (1,) * len(x.axes[x.batch_axis]) + shape[: x.batch_axis] + shape[x.batch_axis + 1 :]
        key = "beside_" + "_".join(map(str, shape))
        return self.draft.derive(value, array.reshape(shape), ("reshape", tuple(array.shape)), key=key)


Rewrite = Callable[[BatchFirstPass, Node], BatchFirstValue]
"""The result of an operator on values whose batch axis is not the first."""
