"""Builder: the fx graph of a Network while it is built, under names that the builder chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import fx, nn

from pipeline.core.network import SHAPE, Origin, Provenance
from pipeline.onnx.ir import ConstantSource
from pipeline.onnx.provenance import Ledger


class Builder:
    """Emits placeholders ``x0``, constants ``c0`` and modules ``n0``: no name of a file reaches generated source."""

    def __init__(
        self,
        constants: Mapping[str, np.ndarray],
        sources: Mapping[str, ConstantSource],
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, np.dtype],
        *,
        free: bool = False,
    ):
        self.constants, self.shapes, self._dtypes, self.free = constants, shapes, dtypes, free
        """``free``: whether the first axis of every input is of any size, so that a measured batch size may be no constant."""
        self.free_sizes = False
        """Whether other axes of an input are of any size too, so that no measured size may become a constant."""
        self.ledger = Ledger(sources)
        self.origin = Origin("", "", "")
        """The node of the file that is being lowered."""
        self._graph, self._root = fx.Graph(), nn.Module()
        self._values: dict[str, fx.Node] = {}
        self._parameters: dict[str, nn.Parameter] = {}
        self._constant_nodes: dict[tuple[str, bool], fx.Node] = {}
        self._counts = {"x": 0, "c": 0, "n": 0}
        self._layers: set[fx.Node] = set()
        self._varying: set[fx.Node] = set()
        self._has_layer = False

    def input(self, value: str) -> None:
        self._values[value] = self._graph.placeholder(self._name("x"))
        self._varying.add(self._values[value])

    def varies(self, node: fx.Node) -> bool:
        """Whether a node depends on an input of the graph."""
        return node in self._varying

    def value(self, value: str, *, trains: bool = False) -> fx.Node:
        """The node that computes a value; the node of a constant is created on first use."""
        if value in self._values:
            return self._values[value]
        if (value, trains) not in self._constant_nodes:
            name = self._name("c")
            tensor = self.tensor(value)
            if trains:
                setattr(self._root, name, self.parameter(name, value, "MatMul"))
            else:
                self._root.register_buffer(name, tensor)
                if tensor.dtype.is_floating_point:
                    self.ledger.constant(name, value, self._reason())
            self._constant_nodes[value, trains] = self._graph.get_attr(name)
        return self._constant_nodes[value, trains]

    def tensor(self, constant: str) -> torch.Tensor:
        array = self.constants[constant]
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.astype(np.float32)).bfloat16()
        return torch.from_numpy(np.array(array))

    def dtype(self, value: str) -> torch.dtype:
        return torch.from_numpy(np.zeros(0, self._dtypes[value])).dtype

    def literal(self, number: float | torch.Tensor, dtype: torch.dtype) -> fx.Node:
        """A constant that the file does not have, such as a factor 2 in a decomposition."""
        name = self._name("c")
        self._root.register_buffer(name, torch.as_tensor(number).to(dtype))
        self.ledger.literal(name)
        return self._graph.get_attr(name)

    def parameter(self, name: str, constant: str, op_type: str) -> nn.Parameter:
        """The Parameter of a constant, one object however often it is used, entered in the ledger under ``name``."""
        self.ledger.parameter(name, constant, op_type)
        if constant not in self._parameters:
            self._parameters[constant] = nn.Parameter(self.tensor(constant))
        return self._parameters[constant]

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that computes a node, None for an input or a constant."""
        return self._root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_layer(self, value: str) -> bool:
        """Whether a value is a product whose weight is an operand that trains."""
        return self._values.get(value) in self._layers

    def emit(
        self, module: nn.Module, *args: fx.Node, weights: Mapping[str, str] | None = None, layer: bool = False
    ) -> fx.Node:
        """Add one operator application; ``weights`` maps parameters and statistics of the module to the constants that they hold.

        ``layer`` marks a product whose weight is an operand.
        """
        name = self._name("n")
        for field, constant in (weights or {}).items():
            if field in dict(module.named_buffers()):
                setattr(module, field, self.tensor(constant))
                self.ledger.parameter(f"{name}.{field}", constant, self.origin.op_type)
            else:
                setattr(module, field, self.parameter(f"{name}.{field}", constant, self.origin.op_type))
        self._root.add_module(name, module)
        node = self._graph.create_node("call_module", name, args, {}, name=name)
        # Only the node that ends the lowering of a file's node computes its output value.
        self.ledger.node(name, replace(self.origin, output=""))
        self._has_layer |= layer or bool(weights)
        if layer:
            self._layers.add(node)
        if not self._varying.isdisjoint(args):
            self._varying.add(node)
        return node

    def bind(self, value: str, node: fx.Node, origin: Origin) -> None:
        """Record that a node computes a value of the normalised graph."""
        self._values[value] = node
        if value in self.shapes:
            node.meta[SHAPE] = self.shapes[value]
        if node.op == "call_module":
            self.ledger.node(node.name, origin)

    def finish(self, outputs: list[str]) -> tuple[fx.GraphModule, Provenance]:
        results = tuple(self.value(o) for o in outputs)
        self._graph.output(results[0] if len(results) == 1 else results)
        for node in reversed(self._graph.nodes):  # lowerings may bypass earlier nodes
            if node.op in ("call_module", "get_attr") and not node.users:
                self._graph.erase_node(node)
        self._graph.lint()
        module = fx.GraphModule(self._root, self._graph, class_name="Graph")
        return module, self.ledger.finish(module)

    def _reason(self) -> str:
        if not self._has_layer:
            return "preprocessing at the input"
        return f"a constant of {self.origin.op_type}"

    def _name(self, kind: str) -> str:
        self._counts[kind] += 1
        return f"{kind}{self._counts[kind] - 1}"
