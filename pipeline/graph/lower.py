"""Modules of onnx2torch -> torch.nn and pipeline.ops: what one operator of the file is in our vocabulary.

A lowering reads the module that onnx2torch made beside the ONNX node, and emits one node or a few; where onnx2torch lacks
an operator or reads a form of it wrongly, the ONNX node alone. Operands that are constants of the
file become settings of the module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx, nn

from pipeline import ops
from pipeline.graph.builder import Builder
from pipeline.graph.draft import Node
from pipeline.graph.provenance import PARAMETERS


class Unsupported(Exception):
    """An operator, or this use of it, that the vocabulary cannot say; the importer collects and names them all."""


@dataclass(frozen=True)
class Item:
    """One node of the normalised graph, what onnx2torch made of it, and where it is to be lowered to."""

    node: Node
    converted: nn.Module | Unsupported
    build: Builder

    def module(self) -> Any:
        """What onnx2torch made of the node. Raises Unsupported if it made nothing."""
        if isinstance(self.converted, Unsupported):
            raise self.converted
        return self.converted

    def arg(self, position: int = 0, *, trains: bool = False) -> fx.Node:
        return self.build.value(self.node.inputs[position], trains=trains)

    def args(self) -> list[fx.Node]:
        return [self.build.value(v) for v in self.node.inputs]

    def varies(self, position: int) -> bool:
        """Whether an input depends on those of the graph."""
        return _depends(self.arg(position))

    def both_vary(self) -> bool:
        """Whether both operands do, sample beside sample: one rank, so that their first axes are the batch."""
        return self.varies(0) and self.varies(1) and self.rank(0) == self.rank(1) > 0

    def rank(self, position: int) -> int:
        """How many axes an input was measured to have, 0 where it was not."""
        return len(self.build.shapes.get(self.node.inputs[position], ()))

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attributes.get(name, default)

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """The measured shape of an input. Raises Unsupported where it was not measured."""
        try:
            return self.build.shapes[self.node.inputs[position]]
        except KeyError:
            raise Unsupported("its input's shape could not be measured") from None

    def ints(self, position: int) -> list[int] | None:
        """A constant input as whole numbers, None where it is left out. Raises Unsupported where it is computed."""
        array = self.array(position)
        return None if array is None else [int(i) for i in array.reshape(-1)]

    def array(self, position: int) -> np.ndarray | None:
        name = self.node.input(position)
        if not name:
            return None
        if name not in self.build.constants:
            raise Unsupported(f"its input {position} is computed, not constant")
        return self.build.constants[name]

    def weights(self) -> dict[str, str]:
        """Which constant each parameter of this layer holds."""
        table = PARAMETERS[self.node.op_type]
        return {field: self.node.input(i) for i, field in table.items() if self.node.input(i) in self.build.constants}


def _depends(value: fx.Node) -> bool:
    pending, seen = [value], {value}
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            return True
        new = [n for n in node.all_input_nodes if n not in seen]
        pending += new
        seen.update(new)
    return False


Lowering = Callable[[Item], fx.Node | list[fx.Node]]
LOWERINGS: dict[str, Lowering] = {}


def lowers(*op_types: str) -> Callable[[Lowering], Lowering]:
    """Registers a lowering for operators; an operator has one. Raises KeyError on a duplicate."""

    def register(lowering: Lowering) -> Lowering:
        for op_type in op_types:
            if op_type in LOWERINGS:
                raise KeyError(f"an operator is lowered once; {op_type} is already")
            LOWERINGS[op_type] = lowering
        return lowering

    return register


PLAIN: dict[str, type[nn.Module]] = {
    "Relu": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "Softsign": nn.Softsign,
    **{
        op.__name__: op
        for op in (
            *(ops.Sub, ops.Pow, ops.Neg, ops.Abs, ops.Reciprocal, ops.Sqrt, ops.Exp, ops.Log, ops.Erf),
            *(ops.Sin, ops.Cos, ops.Sign, ops.Floor, ops.Ceil, ops.Round, ops.Where, ops.Not, ops.And, ops.Or),
            *(ops.Equal, ops.Greater, ops.Less, ops.GreaterOrEqual, ops.LessOrEqual),
        )
    },
}
"""Operators whose module has no settings."""

CHAINED = {"Sum": ops.Add, "Min": ops.Min, "Max": ops.Max}
"""Associative operators: any number of operands, taken two at a time."""

SAME = (
    nn.LeakyReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.Softmax,
    nn.LogSoftmax,
    nn.Softplus,
    nn.Hardswish,
    nn.LocalResponseNorm,
)
"""Modules of onnx2torch that are already in the vocabulary and hold nothing of the file."""


def lower(item: Item) -> list[fx.Node]:
    """The nodes that compute an operator's outputs, in order. Raises Unsupported."""
    op_type = item.node.op_type
    if op_type in LOWERINGS:
        made = LOWERINGS[op_type](item)
        return made if isinstance(made, list) else [made]
    if op_type in PLAIN:
        return [item.build.emit(PLAIN[op_type](), *item.args())]
    if op_type in CHAINED:
        total, *others = item.args()
        for other in others:
            total = item.build.emit(CHAINED[op_type](), total, other)
        return [total]
    if isinstance(module := item.module(), SAME):
        return [item.build.emit(module, item.arg())]
    raise Unsupported("")
