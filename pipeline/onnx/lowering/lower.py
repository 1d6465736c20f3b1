"""Nodes of the normalised graph -> modules of torch.nn and pipeline.core.ops.

A lowering reads the ONNX node, or the module into which onnx2torch converts it, and emits one node or a few. Operands that are
constants of the file become settings of the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx, nn

from pipeline.onnx.ir import Node
from pipeline.onnx.lowering.builder import Builder
from pipeline.onnx.operators import REASONS, TABLE, Operator, Unsupported, default, enter


@dataclass(frozen=True)
class Item:
    """One node that is lowered, and the builder of the result; it records which inputs were read."""

    node: Node
    convert: Callable[[Node], nn.Module]
    """The module into which onnx2torch converts a node; raises Unsupported where it cannot."""
    build: Builder
    read_inputs: set[int] = field(default_factory=set)
    """Positions of inputs."""

    def module(self) -> Any:
        """The module into which onnx2torch converts the node. Raises Unsupported where it cannot."""
        return self.convert(self.node)

    def input(self, position: int) -> str:
        """The name of an input, empty where it is left out."""
        self.read_inputs.add(position)
        return self.node.input(position)

    def arg(self, position: int = 0, *, trains: bool = False) -> fx.Node:
        """The fx node of an input; a constant ``trains`` as a parameter."""
        return self.build.value(self.input(position), trains=trains)

    def args(self) -> list[fx.Node]:
        return [self.arg(position) for position in range(len(self.node.inputs))]

    def varies(self, position: int) -> bool:
        """Whether an input depends on those of the graph."""
        return self.build.varies(self.arg(position))

    def both_vary(self) -> bool:
        """Whether both operands do, and have one rank, so that the first axis of both is the batch."""
        return self.varies(0) and self.varies(1) and self.rank(0) == self.rank(1) > 0

    def rank(self, position: int) -> int:
        """How many axes an input has; 0 where it was not measured."""
        return len(self.build.shapes.get(self.node.input(position), ()))

    def attribute(self, name: str) -> Any:
        """An attribute of the node, or ONNX's default; None where there is neither."""
        default_value = default(self.node.op_type, name, domain=self.node.domain)
        return self.node.attributes.get(name, default_value)

    def flag(self, name: str) -> bool:
        """An attribute that is 0 or 1. Raises Unsupported for any other number, which runtimes may read either way."""
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
        """A constant input as integers, None where it is left out. Raises Unsupported where it is computed."""
        array = self.array(position)
        return None if array is None else [int(i) for i in array.reshape(-1)]

    def array(self, position: int) -> np.ndarray | None:
        """A constant input, None where it is left out. Raises Unsupported where it is computed."""
        name = self.input(position)
        if not name:
            return None
        if name not in self.build.constants:
            raise Unsupported(f"its input {position} is computed, not constant")
        return self.build.constants[name]

    def weights(self) -> dict[str, str]:
        """The constant of each parameter of this layer."""
        table = TABLE[self.node.op_type].weights
        return {
            parameter: self.input(i) for i, parameter in table.items() if self.node.input(i) in self.build.constants
        }


Lowering = Callable[[Item], fx.Node | list[fx.Node]]
LOWERINGS: dict[str, Lowering] = {}
"""By operator of ``TABLE``, except those of which passes leave no node in a graph."""


def operator(
    *names: str,
    reads: Sequence[str] = (),
    inert: Mapping[str, str] | None = None,
    **more: Any,
) -> Callable[[Lowering], Lowering]:
    """Enter operators that share the decorated lowering, with the fields of ``Operator``.

    Raises KeyError where one is in the table already.
    """

    def register(lowering: Lowering) -> Lowering:
        for name in names:
            enter(Operator(name, reads=frozenset(reads), inert=inert or {}, **more))
            LOWERINGS[name] = lowering
        return lowering

    return register


def lower(item: Item) -> list[fx.Node]:
    """The fx nodes of an operator's outputs, in order. Raises Unsupported, also where its lowering did not read an input."""
    if item.node.op_type not in LOWERINGS:
        raise Unsupported(REASONS.get(item.node.op_type, ""))
    nodes = LOWERINGS[item.node.op_type](item)
    unread = [i for i, value in enumerate(item.node.inputs) if value and i not in item.read_inputs]
    if unread:
        raise Unsupported(f"its input {unread[0]} is not honoured")
    return nodes if isinstance(nodes, list) else [nodes]
