"""Draft: a graph while it is being normalised. Constants are arrays, each with the steps back to the file's initialiser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.core.network import Origin
from pipeline.system.clock import check_time

OPSET = 17
"""The opset whose converters onnx2torch is asked for."""


class Attributes(dict[str, Any]):
    """The attributes of a node, which record in ``read`` the names that were read.

    A copy that a pass makes (``old | changes``) shares the record: what is read of the copy was read of the file's node.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None, read: set[str] | None = None):
        super().__init__(settings or {})
        self.read: set[str] = set() if read is None else read

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def pop(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().pop(name, default)

    def peek(self, name: str, default: Any = None) -> Any:
        """An attribute, without recording that it was read."""
        return super().get(name, default)

    def __or__(self, changes: Mapping[str, Any]) -> Attributes:  # type: ignore[override]
        return Attributes({**self, **changes}, self.read)


@dataclass(frozen=True)
class ConstantSource:
    """Where a constant comes from: ``steps`` lead from the constant back to ``initializer``, in order.

    Where there is no way back, ``initializer`` is None, ``reason`` says why, and ``reads`` names the initialisers that the
    constant was computed from.
    """

    initializer: str | None
    steps: tuple[tuple[str, Any], ...] = ()
    reason: str = ""
    reads: frozenset[str] = frozenset()

    def after(self, *steps: tuple[str, Any]) -> ConstantSource:
        """The source of a constant that was computed from this one; ``steps`` undo that computation."""
        return self if self.initializer is None else replace(self, steps=(*steps, *self.steps))


@dataclass
class Node:
    """One operator application, its values under neutral names."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    attributes: Attributes = field(default_factory=Attributes)
    domain: str = ""

    @property
    def output(self) -> str:
        return self.outputs[0]

    def input(self, position: int) -> str:
        """The value at a position; empty where an optional input is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""


@dataclass
class Draft:
    """Nodes in topological order, constants by value name, and the measured shape and type of every value."""

    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    constants: dict[str, np.ndarray]
    sources: dict[str, ConstantSource]
    origins: dict[str, Origin]
    opset: int
    """Of the file."""
    free: bool = False
    """Whether the first axis of every input is of any size."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes at the first probe, by value name."""
    dtypes: dict[str, np.dtype] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _fresh: int = 0

    def fresh(self) -> str:
        """An unused value name."""
        self._fresh += 1
        return f"t{self._fresh}"

    def constant(self, array: np.ndarray, source: ConstantSource | None = None) -> str:
        """Add a constant; returns its name."""
        name = self.fresh()
        self.constants[name] = array
        self.shapes[name], self.dtypes[name] = tuple(array.shape), array.dtype
        self.sources[name] = source or ConstantSource(None, reason="written by the import")
        return name

    def derive(self, name: str, array: np.ndarray, *steps: tuple[str, Any], key: str) -> str:
        """Add a constant computed from ``name``; returns its name. ``steps`` lead back; ``key`` names the computation.

        The same computation on the same constant gives the same constant, so that tied weights stay tied.
        """
        derived = f"{name}_{key}"
        if derived not in self.constants:
            self.constants[derived] = array
            self.shapes[derived], self.dtypes[derived] = tuple(array.shape), array.dtype
            self.sources[derived] = self.sources[name].after(*steps)
        return derived

    def uses(self) -> Counter[str]:
        """How often each value is read, a graph output counting as one reading."""
        check_time()  # every pass over the graph calls this first
        counts: Counter[str] = Counter(self.outputs)
        for node in self.nodes:
            counts.update(node.inputs)
        return counts

    def producers(self) -> dict[str, Node]:
        return {v: n for n in self.nodes for v in n.outputs if v}

    def substitute(self, aliases: dict[str, str]) -> None:
        """Replace every use of a key by its value, following chains."""

        def final(name: str) -> str:
            while name in aliases:
                name = aliases[name]
            return name

        for node in self.nodes:
            node.inputs = [final(v) for v in node.inputs]
        self.outputs = [final(v) for v in self.outputs]

    def needed(self) -> set[str]:
        """The values that some output depends on."""
        values = set(self.outputs)
        for node in reversed(self.nodes):
            if not values.isdisjoint(node.outputs):
                values.update(v for v in node.inputs if v)
        return values

    def prune(self) -> None:
        """Remove nodes and constants that no output depends on, and outputs of nodes that nobody reads."""
        needed = self.needed()
        self.nodes = [node for node in self.nodes if not needed.isdisjoint(node.outputs)]
        for node in self.nodes:
            node.outputs = [v if v in needed else "" for v in node.outputs]
            while node.outputs and not node.outputs[-1]:
                node.outputs.pop()
        self.constants = {n: a for n, a in self.constants.items() if n in needed}

    def model(self) -> onnx.ModelProto:
        """The graph as ONNX, node ``i`` named ``n<i>``, measured shapes as value information."""
        graph = onnx.GraphProto(name="graph")
        for ports, names in ((graph.input, self.inputs), (graph.output, self.outputs)):
            ports.extend(self._info(n) for n in names)
        computed = [v for n in self.nodes for v in n.outputs if v and v in self.shapes and v not in self.outputs]
        graph.value_info.extend(self._info(v) for v in computed)
        graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in self.constants.items())
        graph.node.extend(
            helper.make_node(n.op_type, n.inputs, n.outputs, name=f"n{i}", domain=n.domain, **n.attributes)
            for i, n in enumerate(self.nodes)
        )
        domains = dict.fromkeys(["", *(n.domain for n in self.nodes)])
        imports = [helper.make_opsetid(d, 1 if d else OPSET) for d in domains]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def _info(self, name: str) -> onnx.ValueInfoProto:
        dtype = helper.np_dtype_to_tensor_dtype(self.dtypes.get(name, np.dtype(np.float32)))
        return helper.make_tensor_value_info(name, dtype, self.shapes.get(name))


def draft_of(model: onnx.ModelProto, origins: dict[str, Origin], values: dict[str, str]) -> Draft:
    """The Draft of a model under neutral names; a Constant node becomes a constant whose source is the value it defines.

    ``origins``: by value, the node of the file; ``values``: the file's names of values.
    """
    nodes: list[Node] = []
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for proto in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        if proto.op_type == "Constant":
            constants[proto.output[0]] = _constant(attributes)
        else:
            settings = Attributes(attributes)
            nodes.append(Node(proto.op_type, list(proto.input), list(proto.output), settings, proto.domain))
    opset = next(e.version for e in model.opset_import if not e.domain)
    draft = Draft(
        nodes=nodes,
        inputs=[i.name for i in model.graph.input],
        outputs=[o.name for o in model.graph.output],
        constants=constants,
        sources={n: _source(n, values) for n in constants},
        origins=dict(origins),
        opset=opset,
    )
    draft.shapes.update({n: tuple(a.shape) for n, a in constants.items()})
    draft.dtypes.update({n: a.dtype for n, a in constants.items()})
    return draft


def _source(name: str, values: dict[str, str]) -> ConstantSource:
    return ConstantSource(values[name]) if name in values else ConstantSource(None, reason="written by the import")


def _constant(attributes: Mapping[str, Any]) -> np.ndarray:
    (kind, value), *_ = attributes.items()
    if kind == "value":
        return numpy_helper.to_array(value)
    return np.asarray(value, dtype={"f": np.float32, "i": np.int64}.get(kind.removeprefix("value_")[0], object))


def all_equal(array: np.ndarray) -> bool:
    """Whether all entries are one number: exporters merge such tensors because they are equal, although they are not tied."""
    return bool(array.size > 0 and (array == array.flat[0]).all())
