"""Nodes of the normal form -> torch.nn and pipeline.core.ops: what one operator of the file is in our vocabulary.

A lowering reads the ONNX node, and where that serves the module that onnx2torch makes of it, and emits one node or a few.
Operands that are constants of the file become settings of the module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx, nn

from pipeline.onnx.ir import Node
from pipeline.onnx.lowering.builder import Builder
from pipeline.onnx.operators import TABLE, Unsupported, default


@dataclass(frozen=True)
class Item:
    """One node that is to be lowered, and where to; it remembers which inputs were read."""

    node: Node
    convert: Callable[[Node], nn.Module]
    """What onnx2torch makes of a node; raises Unsupported where it makes nothing."""
    build: Builder
    seen: set[int] = field(default_factory=set)
    """The positions of inputs that were read."""

    def module(self) -> Any:
        """What onnx2torch makes of the node. Raises Unsupported if it makes nothing."""
        return self.convert(self.node)

    def input(self, position: int) -> str:
        """The name of an input, empty where it is left out."""
        self.seen.add(position)
        return self.node.input(position)

    def arg(self, position: int = 0, *, trains: bool = False) -> fx.Node:
        return self.build.value(self.input(position), trains=trains)

    def args(self) -> list[fx.Node]:
        return [self.arg(position) for position in range(len(self.node.inputs))]

    def varies(self, position: int) -> bool:
        """Whether an input depends on those of the graph."""
        return self.build.varies(self.arg(position))

    def both_vary(self) -> bool:
        """Whether both operands do, sample beside sample: one rank, so that their first axes are the batch."""
        return self.varies(0) and self.varies(1) and self.rank(0) == self.rank(1) > 0

    def rank(self, position: int) -> int:
        """How many axes an input was measured to have, 0 where it was not."""
        return len(self.build.shapes.get(self.node.input(position), ()))

    def attribute(self, name: str) -> Any:
        """An attribute as the node has it, or ONNX's default; None where it has neither."""
        usual = default(self.node.op_type, name, domain=self.node.domain)
        return self.node.attributes.get(name, usual)

    def flag(self, name: str) -> bool:
        """An attribute that is 0 or 1. Raises Unsupported for what a runtime may read either way."""
        value = self.attribute(name)
        if value not in (0, 1):
            raise Unsupported(f"its attribute {name} = {value} is neither 0 nor 1")
        return bool(value)

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """The measured shape of an input. Raises Unsupported where it was not measured."""
        try:
            return self.build.shapes[self.node.input(position)]
        except KeyError:
            raise Unsupported("its input's shape could not be measured") from None

    def ints(self, position: int) -> list[int] | None:
        """A constant input as whole numbers, None where it is left out. Raises Unsupported where it is computed."""
        array = self.array(position)
        return None if array is None else [int(i) for i in array.reshape(-1)]

    def array(self, position: int) -> np.ndarray | None:
        name = self.input(position)
        if not name:
            return None
        if name not in self.build.constants:
            raise Unsupported(f"its input {position} is computed, not constant")
        return self.build.constants[name]

    def weights(self) -> dict[str, str]:
        """Which constant each parameter of this layer holds."""
        table = TABLE[self.node.op_type].weights
        return {held: self.input(i) for i, held in table.items() if self.node.input(i) in self.build.constants}


def lower(item: Item) -> list[fx.Node]:
    """The nodes that compute an operator's outputs, in order. Raises Unsupported, also for an input that was not read."""
    entry = TABLE.get(item.node.op_type)
    if entry is None or entry.lowering is None:
        raise Unsupported("")
    made = entry.lowering(item)
    left = [i for i, value in enumerate(item.node.inputs) if value and i not in item.seen]
    if left:
        raise Unsupported(f"its input {left[0]} is not honoured")
    return made if isinstance(made, list) else [made]
