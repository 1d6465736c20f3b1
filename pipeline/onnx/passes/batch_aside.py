"""A value of a file whose batch stands aside, as a batch-first tensor, and the way through a graph that keeps such values.

Where a file moves the batch aside, or folds it into another axis, its axes are kept as products of the axes of a tensor that
has the batch in front and an axis for each factor.
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


class NotSaid(Exception):
    """What this pass has no words for: the graph stays as it is, and the operator is refused by its name."""


@dataclass(frozen=True)
class Laid:
    """A value of the file as a batch-first tensor, ``sizes`` behind the batch; ``axes`` are the file's in terms of the tensor's.

    Each is a product of axes of the tensor, the slowest first; a tensor's axis in none of them has size one.
    """

    name: str
    sizes: tuple[int, ...]
    axes: tuple[Group, ...]

    @property
    def batch(self) -> int:
        """The axis of the file that holds the batch."""
        return next(i for i, group in enumerate(self.axes) if BATCH in group)

    def place(self, axis: int) -> int:
        """Where a settled value has an axis of the file. Raises NotSaid for the one that holds the batch."""
        if BATCH in self.axes[axis]:
            raise NotSaid
        return self.axes[axis][0]

    def resized(self, name: str, place: int, size: int) -> Laid:
        return replace(self, name=name, sizes=(*self.sizes[: place - 1], size, *self.sizes[place:]))

    def without(self, dropped: Sequence[int]) -> Laid:
        """The tensor without some of the axes of the file, gone from both."""
        gone = sorted(self.place(axis) for axis in dropped)
        left = [group for i, group in enumerate(self.axes) if i not in dropped]
        axes = tuple(tuple(a - sum(g < a for g in gone) for a in group) for group in left)
        return Laid(self.name, tuple(s for i, s in enumerate(self.sizes, 1) if i not in gone), axes)


def permutation(node: Node, rank: int) -> Sequence[int]:
    return node.attributes.get("perm", range(rank)[::-1])


class Rewriting:
    """One way through the nodes of a draft; ``runs`` are the file's values at batches of two and of three, or at one of one."""

    def __init__(self, draft: Draft, runs: Sequence[Mapping[str, np.ndarray]], kinds: Mapping[str, str]):
        self.draft, self.runs, self.kinds = draft, runs, kinds
        self.shapes = [{name: np.shape(value) for name, value in run.items()} for run in runs]
        self.laid: dict[str, Laid] = {}
        self.same: dict[str, str] = {}
        self.made: list[Node] = []

    def nodes(self, rewrite_of: Callable[[str], Rewrite | None]) -> Iterator[Node]:
        """The nodes anew, in order, by what is known of each operator. Raises NotSaid."""
        for node in self.draft.nodes:
            if not self.leaves(node) and self.laid.keys().isdisjoint(node.inputs):
                yield node
                continue
            rewrite = rewrite_of(node.op_type)
            if rewrite is None or len(node.outputs) > 1 or not self.steady(node):
                raise NotSaid
            self.made = []
            self.keep(node, rewrite(self, node))
            yield from self.made
        if not self.laid.keys().isdisjoint(self.draft.outputs):
            raise NotSaid

    def steady(self, node: Node) -> bool:
        """Whether what is no operand, a target or an index, is the same for every input: runs show it for theirs alone."""
        entry = TABLE.get(node.op_type)
        operands = node.op_type in ("MatMul", "Concat") or (entry is not None and entry.pointwise and entry.inputs == 2)
        others = [] if operands else node.inputs[1:]
        return all(not v or v in self.draft.constants or self.kinds.get(v) == "shape" for v in others)

    def leaves(self, node: Node) -> bool:
        """Whether a value with the batch in front becomes one without."""
        if node.op_type not in ("Transpose", "Reshape", "Unsqueeze") or not self.leads(node.inputs[0]):
            return False
        if node.op_type == "Transpose":
            return permutation(node, len(self.shapes[0][node.inputs[0]]))[0] != 0
        return not self.leads(node.output)

    def leads(self, value: str) -> bool:
        if value in self.draft.constants or value not in self.shapes[0]:
            return False
        return self.dims(value)[:1] in ([(True, 1)], [(None, 1)])

    def dims(self, value: str) -> list[tuple[bool | None, int]]:
        """Of each axis of a value of the file: whether it holds the batch, and its size for one sample.

        None where a batch of one is written into the file, and may stand in any axis.
        """
        if any(value not in run for run in self.shapes):
            raise NotSaid
        if len(self.shapes) == 1:
            return [(None, size) for size in self.shapes[0][value]]
        pairs = list(zip(*(run[value] for run in self.shapes), strict=True))
        if any(two != three and two * 3 != three * 2 for two, three in pairs):
            raise NotSaid
        return [(two != three, three - two if two != three else two) for two, three in pairs]

    def of(self, value: str) -> Laid:
        if value in self.laid:
            return self.laid[value]
        if not self.leads(value):
            raise NotSaid
        sizes = tuple(size for _, size in self.dims(value)[1:])
        return Laid(value, sizes, tuple((i,) for i in range(len(sizes) + 1)))

    def settled(self, value: str, node: Node) -> Laid:
        return self.settle(self.of(value), node)

    def settle(self, x: Laid, node: Node) -> Laid:
        """The batch in front, then what is slower and what is faster beside it, then an axis for each other axis of the file."""
        first, rest = x.axes[x.batch], [group for group in x.axes if BATCH not in group]
        at = first.index(BATCH)
        behind = [group for group in (first[:at], first[at + 1 :]) if group] + rest
        order = [BATCH, *(a for group in behind for a in group)]
        order += [a for a in range(1, len(x.sizes) + 1) if a not in order]
        name, sizes = x.name, tuple(x.sizes[a - 1] for a in order[1:])
        if order != sorted(order):
            name = self.emit(node, "Transpose", [name], sizes, perm=order)
        if (wanted := tuple(math.prod(x.sizes[a - 1] for a in group) for group in behind)) != sizes:
            name = self.emit(node, "Reshape", [name, self.target(wanted)], wanted)
        beside = range(1, 1 + len(behind) - len(rest))
        own = (*beside[: bool(at)], BATCH, *beside[bool(at) :])
        places = iter(range(len(own), len(behind) + 1))
        return Laid(name, wanted, tuple(own if BATCH in group else (next(places),) for group in x.axes))

    def keep(self, node: Node, laid: Laid) -> None:
        """What a node gives, as the file has it where the batch is in front again."""
        if laid.axes[0] != (BATCH,):
            self.laid[node.output] = laid
            if laid.name in self.draft.origins and any(laid.name == made.output for made in self.made):
                self.draft.origins[laid.name] = replace(self.draft.origins[laid.name], axes=laid.axes)
            return
        name = self.settle(laid, node).name
        if self.made and self.made[-1].output == name:
            self.made[-1].outputs = [node.output]
        else:
            self.same[node.output] = name

    def emit(
        self, node: Node, op_type: str, inputs: list[str], sizes: Sequence[int], domain: str = "", **attributes: Any
    ) -> str:
        """A new node in place of one of the file; the name of its value."""
        name, draft = self.draft.fresh(), self.draft
        draft.shapes[name] = (len(self.shapes), *sizes)  # the first probe has two samples, or one
        draft.dtypes[name] = draft.dtypes.get(node.output, np.dtype(np.float32))
        if node.output in draft.origins:
            draft.origins[name] = replace(draft.origins[node.output], axes=())
        self.made.append(Node(op_type, inputs, [name], Attributes(attributes), domain))
        return name

    def again(self, node: Node, inputs: list[str], sizes: Sequence[int], **changed: Any) -> str:
        """The same operator on other values."""
        name = self.emit(node, node.op_type, inputs, sizes, node.domain)
        self.made[-1].attributes = node.attributes | changed
        return name

    def target(self, sizes: Sequence[int]) -> str:
        return self.draft.constant(np.array([-1, *sizes], np.int64))

    def numbers(self, value: str) -> list[int]:
        return [int(v) for v in np.atleast_1d(self.constant(value))]

    def constant(self, value: str) -> np.ndarray:
        if value not in self.draft.constants:
            raise NotSaid
        return self.draft.constants[value]

    def beside(self, value: str, x: Laid) -> str:
        """A constant that the file broadcasts against ``x``, as one that broadcasts against the settled tensor."""
        array = self.constant(value)
        if array.ndim < len(x.axes) - x.batch:
            return value
        shape = (1,) * (len(x.axes) - array.ndim) + array.shape
        if len(shape) > len(x.axes) or shape[x.batch] != 1:
            raise NotSaid
        shape = (1,) * len(x.axes[x.batch]) + shape[: x.batch] + shape[x.batch + 1 :]
        key = "beside_" + "_".join(map(str, shape))
        return self.draft.derive(value, array.reshape(shape), ("reshape", tuple(array.shape)), key=key)


Rewrite = Callable[[Rewriting, Node], Laid]
"""What an operator gives, of values that are laid."""
