"""Several inputs of a file as one: a sample is one row of numbers, of which those of one input alone may be perturbed."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32
from torch import fx, nn

from pipeline.core import ops
from pipeline.core.fixed_integers import EXACT, IntegerPart, remove_unread
from pipeline.core.network import SHAPE, Network, Port
from pipeline.errors import InputRejected

JOINED = "joined"
"""The name of the one input."""


@dataclass(frozen=True, eq=False)
class Joined:
    """The inputs of a file, in its order, and which of them is perturbed.

    Float32 inputs lie one behind the other in a row, and behind them those of integers that come with each sample.
    ``constants`` are whole inputs of other types, for a batch of one, by name; ``alike`` are those float32 inputs that every row
    has alike.
    """

    ports: tuple[Port, ...]
    perturbed: str
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    alike: Mapping[str, np.ndarray] = field(default_factory=dict)
    integers: IntegerPart | None = None

    @property
    def whole(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of one sample of the inputs of integers that come with each sample."""
        return self.integers.shapes if self.integers else {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one sample of the float32 inputs, which lie in a row in this order."""
        known = {*self.constants, *self.whole}
        return {p.name: tuple(d or 1 for d in p.shape[1:]) for p in self.ports if p.name not in known}

    @property
    def size(self) -> int:
        """The numbers of a row."""
        return sum(map(math.prod, (*self.shapes.values(), *self.whole.values())))

    @property
    def entries(self) -> slice:
        """Those that may be perturbed."""
        start = 0
        for name, shape in self.shapes.items():
            if name == self.perturbed:
                return slice(start, start + math.prod(shape))
            start += math.prod(shape)
        raise KeyError(self.perturbed)

    def inputs(self, rows: Float32[np.ndarray, "n size"]) -> list[np.ndarray]:
        """The inputs of the file, of a batch of rows."""
        shapes = {**self.shapes, **self.whole}
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
        parts = dict(zip(shapes, np.split(rows, ends[:-1], axis=1), strict=True))
        return [
            np.repeat(self.constants[p.name], len(rows), axis=0)
            if p.name in self.constants
            else parts[p.name].reshape(len(rows), *shapes[p.name]).astype(torch.empty(0, dtype=p.dtype).numpy().dtype)
            for p in self.ports
        ]

    def before(self, network: Network) -> Network:
        """The network over rows: a copy that begins with a Slice and a Reshape for each input; constants are its own tensors."""
        network = copy.deepcopy(network)
        module, graph = network.graph, network.graph.graph
        batch = None if not self.constants and all(p.shape[0] is None for p in self.ports) else 1
        given = [n for n in graph.nodes if n.op == "placeholder"]
        with graph.inserting_before(given[0]):
            row = graph.create_node("placeholder", JOINED, name=JOINED)
            row.meta[SHAPE] = (batch, self.size)

        def put(name: str, op: nn.Module, source: fx.Node, shape: tuple[int, ...]) -> fx.Node:
            module.add_module(name, op)
            node = graph.create_node("call_module", name, (source,), name=name)
            node.meta[SHAPE] = (batch, *shape)
            return node

        start, by_name = 0, {n.name: n for n in graph.nodes}
        for i, (port, node) in enumerate(zip(self.ports, given, strict=True)):
            if port.name in self.whole:
                continue
            with graph.inserting_before(node):
                if port.name in self.constants:
                    module.register_buffer(f"constant_{i}", torch.from_numpy(self.constants[port.name]))
                    stands = graph.create_node("get_attr", f"constant_{i}", name=f"constant_{i}")
                else:
                    shape = self.shapes[port.name]
                    size = math.prod(shape)
                    stands = put(f"part_{i}", ops.Slice([start], [start + size], [1], [1]), row, (size,))
                    stands = put(f"input_{i}", ops.Reshape([0, *shape]), stands, shape)
                    start += size
            node.replace_all_uses_with(stands)
            graph.erase_node(node)
        if self.integers is not None:
            with graph.inserting_before(row.next):
                numbers = put("whole", ops.Slice([start], [self.size], [1], [1]), row, (self.size - start,))
                values = put("integers", copy.deepcopy(self.integers), numbers, (self.integers.computed,))
                start = 0
                for name, shape in self.integers.results.items():
                    end = start + math.prod(shape)
                    part = put(f"part_{name}", ops.Slice([start], [end], [1], [1]), values, (end - start,))
                    by_name[name].replace_all_uses_with(put(f"input_{name}", ops.Reshape([0, *shape]), part, shape))
                    start = end
            remove_unread(graph, [*(by_name[name] for name in self.integers.results), *given])
        _fold(network, {f"constant_{i}" for i in range(len(self.ports))})
        whole = Port(JOINED, torch.float32, (batch, self.size))
        return Network(fx.GraphModule(module, graph), (whole,), network.outputs, replace(network.provenance))


@torch.no_grad()
def _fold(network: Network, names: set[str]) -> None:
    """Compute what follows from the constants of these names alone, by operators that do not round.

    Raises InputRejected for another operator of such constants alone: ONNX Runtime may round it otherwise.
    """
    module, graph = network.graph, network.graph.graph
    for node in list(graph.nodes):
        args = [a for a in node.args if isinstance(a, fx.Node)] if node.op == "call_module" else []
        if not any(a.name in names for a in args) or any(a.op != "get_attr" for a in args):
            continue
        op = module.get_submodule(str(node.target))
        if not isinstance(op, EXACT):
            raise InputRejected(
                f"{network.origin(node.name)} computes with constant inputs alone, and may round; give its result as the input."
            )
        name = f"folded_{node.name}"
        module.register_buffer(name, op(*(_tensor(module, str(a.target)) for a in args)))
        with graph.inserting_before(node):
            stands = graph.create_node("get_attr", name, name=name)
        names.add(name)
        node.replace_all_uses_with(stands)
        graph.erase_node(node)


def _tensor(module: nn.Module, path: str) -> torch.Tensor:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)
