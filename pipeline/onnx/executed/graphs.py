"""A graph that is walked backwards: the file's own, or the one that ONNX Runtime's optimiser made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.errors import InputRejected
from pipeline.onnx import runtime
from pipeline.onnx.names import shown
from pipeline.onnx.probe import dependence, probe

NCHWC = "com.microsoft.nchwc."
_FLOATS_BY_SCHEMA = ("ai.onnx.ml.Scaler", "ai.onnx.ml.Normalizer")
"""Operators of one result, of float32 whatever they read, which onnx does not infer."""


@dataclass(frozen=True, eq=False)
class GraphOperator:
    """One node: its type, prefixed by the domain, and every attribute, at its default where it is left out."""

    position: int
    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, position: int) -> str:
        """The value at a position; empty where an optional input is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    @property
    def plain_type(self) -> str:
        """The type without the prefix of the blocked layout."""
        return self.type.removeprefix(NCHWC)

    def __str__(self) -> str:
        return f"{shown(self.type.removeprefix('com.microsoft.'), 60)} {shown(self.name or self.outputs[0], 80)!r}"


class Graph:
    """Operators by output, constants, and how often each value is read on the way to an output."""

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        versions = {"" if e.domain == "ai.onnx" else e.domain: e.version for e in model.opset_import}
        self.operators: list[GraphOperator] = []
        self.producers: dict[str, tuple[GraphOperator, int]] = {}
        self.constants = _Constants(model)
        for position, node in enumerate(model.graph.node):
            if node.op_type == "Constant" and not node.domain:
                continue
            op = GraphOperator(
                position,
                _type(node),
                node.name,
                tuple(node.input),
                tuple(node.output),
                _attributes(node, versions.get(node.domain, 1)),
            )
            self.operators.append(op)
            self.producers.update({value: (op, i) for i, value in enumerate(node.output) if value})
        self.inputs = {i.name for i in model.graph.input} - {t.name for t in model.graph.initializer}
        self.outputs = [o.name for o in model.graph.output]
        self.readers = self._readers()

    def producer(self, value: str) -> GraphOperator | None:
        """The operator that computes a value, None for inputs and constants."""
        entry = self.producers.get(value)
        return entry[0] if entry else None

    def _readers(self) -> Counter[str]:
        readers, pending, visited = Counter(self.outputs), list(self.outputs), set[int]()
        while pending:
            op = self.producer(pending.pop())
            if op is None or op.position in visited:
                continue
            visited.add(op.position)
            readers.update(v for v in op.inputs if v)
            pending.extend(op.inputs)
        return readers

    @cached_property
    def types(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        """Element types and shapes, as far as onnx infers them."""
        try:
            inferred = onnx.shape_inference.infer_shapes(self.model).graph
        except Exception as error:  # inference failing says nothing about the graph
            if isinstance(error, MemoryError):
                raise
            inferred = self.model.graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        return {v.name: v.type.tensor_type for v in values}

    def element_type(self, value: str) -> int | None:
        """The element type of a value, as in ``TensorProto.DataType``; None where it is unknown."""
        if value in self.constants:
            return int(helper.np_dtype_to_tensor_dtype(self.constants[value].dtype))
        if value not in self.types and (op := self.producer(value)) is not None and op.type in _FLOATS_BY_SCHEMA:
            return int(onnx.TensorProto.FLOAT)
        return self.types[value].elem_type if value in self.types else None

    def rank(self, value: str) -> int | None:
        """How many axes a value has; None where that is unknown."""
        if value in self.constants:
            return self.constants[value].ndim
        value_type, op = self.types.get(value), self.producer(value)
        if value_type is not None and value_type.HasField("shape"):
            return len(value_type.shape.dim)
        if op is not None and op.type == "Transpose" and "perm" in op.attributes:
            return len(op.attributes["perm"])
        return None

    def size(self, value: str, axis: int) -> int | None:
        """The length of an axis; None where that is unknown."""
        value_type = self.types.get(value)
        if value_type is None or not -len(value_type.shape.dim) <= axis < len(value_type.shape.dim):
            return None
        return value_type.shape.dim[axis].dim_value or None


class _Constants:
    """Values that do not depend on the data, as ONNX Runtime computes them operator by operator; computed on first use."""

    def __init__(self, model: onnx.ModelProto):
        self._model = model
        self._stored = {t.name: t for t in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and not node.domain:
                self._stored[node.output[0]] = node.attribute[0]
        self._arrays: dict[str, np.ndarray] = {}

    @cached_property
    def _kinds(self) -> dict[str, str]:
        return dict(dependence(self._model))

    def __contains__(self, value: object) -> bool:
        return value in self._stored or self._kinds.get(str(value), "data") != "data"

    def get(self, value: str) -> np.ndarray | None:
        """A value as an array, None for one that depends on the data."""
        if value not in self:
            return None
        return self[value]

    def fixed(self, value: str) -> bool:
        """Whether a value is the same for inputs of every shape."""
        return value in self._stored or self._kinds.get(value) == "constant"

    def __getitem__(self, value: str) -> np.ndarray:
        if value not in self._arrays:
            if value in self._stored:
                self._arrays[value] = _array(self._stored[value])
            elif self._kinds[value] == "constant":
                self._arrays |= _evaluate(self._model, {v for v, kind in self._kinds.items() if kind == "constant"})
            else:
                self._arrays |= {v: np.asarray(a) for v, a in probe(self._model).values[0].items() if v in self._kinds}
        return self._arrays[value]


def _array(source: onnx.TensorProto | onnx.AttributeProto) -> np.ndarray:
    if isinstance(source, onnx.TensorProto):
        return numpy_helper.to_array(source)
    value = helper.get_attribute_value(source)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    kind = {"f": np.float32, "i": np.int64}.get(source.name.removeprefix("value_")[:1])
    if kind is None:
        raise InputRejected(f"a Constant holds numbers; one of this file holds its {shown(source.name)}.")
    return np.asarray(value, kind)


def _evaluate(model: onnx.ModelProto, values: set[str]) -> dict[str, np.ndarray]:
    """Values that depend on constants alone, by a run without optimisation."""
    submodel = onnx.ModelProto()
    submodel.CopyFrom(model)
    submodel.ir_version = max(submodel.ir_version, 4)  # before it, initialisers are inputs as well
    del submodel.graph.node[:], submodel.graph.input[:], submodel.graph.output[:], submodel.graph.value_info[:]
    submodel.graph.node.extend(n for n in model.graph.node if set(n.output) & values or n.op_type == "Constant")
    names = [v for n in submodel.graph.node for v in n.output if v in values and n.op_type != "Constant"]
    submodel.graph.output.extend(onnx.ValueInfoProto(name=v) for v in names)
    return dict(zip(names, runtime.session(submodel.SerializeToString(), level="off", limited=True)(), strict=True))


def _type(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _attributes(node: onnx.NodeProto, version: int) -> dict[str, Any]:
    attributes = {a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute}
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return attributes
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return attributes
    defaults = {
        name: _plain(helper.get_attribute_value(a.default_value))
        for name, a in schema.attributes.items()
        if a.default_value.type
    }
    return defaults | attributes


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return (str(value.data_type), tuple(value.dims), numpy_helper.to_array(value).tobytes())
    if isinstance(value, onnx.GraphProto):
        return object()  # equal to nothing else: subgraphs are not compared
    return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value
