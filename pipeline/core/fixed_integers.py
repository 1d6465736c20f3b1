"""Whole numbers that come with each sample: what a network makes of them alone is one operator, whose result is exact.

Categories, tokens and masks are inputs of integers that nobody perturbs. Operators that read them alone and do not round (an
embedding, a one-hot vector, a Cast) give the same float32 numbers in every runtime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pipeline.core import ops
from pipeline.core.network import Network, Port
from pipeline.errors import InputRejected

EXACT = (
    *(ops.Cast, ops.Equal, ops.Greater, ops.Less, ops.GreaterOrEqual, ops.LessOrEqual, ops.And, ops.Or, ops.Not, ops.Where),
    *(ops.Reshape, ops.Transpose, ops.Squeeze, ops.Unsqueeze, ops.Slice, ops.Concat, ops.Expand, ops.Tile, ops.Gather),
    *(ops.Take, ops.OneHot, nn.Identity, nn.Flatten, ops.Neg, ops.Abs),
)  # fmt: skip
"""Operators that give the same numbers everywhere."""
WHOLE = (*EXACT, ops.Add, ops.Sub, ops.Mul)
"""The same, of whole numbers."""


@dataclass(frozen=True)
class IntegerStep:
    """``values[index] = op(*values[args])``; ``result`` where the value is one of those that the part computes."""

    index: int
    args: tuple[int, ...]
    result: bool


class IntegerPart(nn.Module):
    """The part of a network that reads integer inputs alone, up to the first float32 values: (n, numbers) to (n, results).

    It reads all integers of a sample in a row, as floating-point numbers, of which it takes the nearest whole ones.
    """

    def __init__(self, ports: Sequence[Port], inputs: Sequence[int], constants: dict[int, Tensor]):
        super().__init__()
        self.ports, self.inputs, self.steps = tuple(ports), tuple(inputs), list[IntegerStep]()
        self.operators, self.constants = nn.ModuleList(), dict.fromkeys(constants, "")
        for index, tensor in constants.items():
            self.constants[index] = f"c{index}"
            self.register_buffer(f"c{index}", tensor.detach())
        self.results: dict[str, tuple[int, ...]] = {}
        """By node of the network that a result stands for: the shape of one sample."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one sample of the integer inputs, by name."""
        return {p.name: tuple(d or 1 for d in p.shape[1:]) for p in self.ports}

    @property
    def size(self) -> int:
        """The numbers of a sample."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def computed(self) -> int:
        """The results of a sample."""
        return sum(map(math.prod, self.results.values()))

    def forward(self, x: Tensor) -> Tensor:
        """One sample at a time where the file runs so. Raises IndexError, RuntimeError for an index without an entry."""
        if all(p.shape[0] is None for p in self.ports):
            return self._of(x)
        return torch.cat([self._of(row) for row in x.split(1)])

    def _of(self, x: Tensor) -> Tensor:
        values = {index: getattr(self, name) for index, name in self.constants.items()}
        parts = x.round().split([math.prod(shape) for shape in self.shapes.values()], 1)
        for index, port, part in zip(self.inputs, self.ports, parts, strict=True):
            values[index] = part.reshape(len(x), *self.shapes[port.name]).to(port.dtype)
        results = []
        for step, op in zip(self.steps, self.operators, strict=True):
            values[step.index] = op(*(values[a] for a in step.args))
            if step.result:
                results.append(values[step.index].reshape(len(x), -1).to(x.dtype))
        return torch.cat(results, 1) if results else x[:, :0]

    def extra_repr(self) -> str:
        return ", ".join(p.name for p in self.ports)


def integer_part(network: Network, names: Sequence[str]) -> IntegerPart:
    """The part of a network that these inputs decide. Raises InputRejected naming an operator that has no place in it."""
    plan = network.plan()
    given = {i: p for i, p in zip(plan.inputs, network.inputs, strict=True) if p.name in names}
    constants = {i: getattr(owner, name) for i, owner, name in plan.constants}
    part = IntegerPart(tuple(given.values()), tuple(given), constants)
    known: dict[int, Tensor] = {
        i: torch.zeros([1, *(d or 1 for d in p.shape[1:])], dtype=p.dtype) for i, p in given.items()
    }
    for step in plan.steps:
        if known.keys().isdisjoint(step.args):
            continue
        if any(a not in known and a not in constants for a in step.args):
            raise _misplaced(network, step.name, "reads other values beside whole numbers")
        args = [known[a] if a in known else constants[a] for a in step.args]
        if not isinstance(step.op, EXACT if any(a.is_floating_point() for a in args) else WHOLE):
            raise _misplaced(network, step.name, "computes with whole numbers, and may round")
        with torch.no_grad():
            value = step.op(*args)
        result = value.is_floating_point()
        if not result:
            known[step.index] = value
        elif value.dtype == torch.float32 and value.dim() and len(value) == 1:
            part.results[step.name] = tuple(value.shape[1:])
        else:
            raise _misplaced(network, step.name, "makes no float32 numbers of each sample")
        part.steps.append(IntegerStep(step.index, tuple(step.args), result))
        part.operators.append(step.op)
    if not known.keys().isdisjoint(plan.outputs):
        raise InputRejected(
            "An output is computed of the input that is perturbed; here whole numbers alone decide one."
        )
    return part


def _misplaced(network: Network, node: str, why: str) -> InputRejected:
    return InputRejected(
        "Whole numbers of a sample are looked up, compared, added or cast before they meet other values; "
        f"{network.origin(node)} {why}. Give all samples the same (--constant), or give its result as an input of the file."
    )


def remove_unread(graph: fx.Graph, nodes: Sequence[fx.Node]) -> None:
    """Erase those of the nodes, and of what they read, that nobody reads."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node in graph.nodes and not node.users and node.op != "output":
            pending.extend(node.all_input_nodes)
            graph.erase_node(node)
