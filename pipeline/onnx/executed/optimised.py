"""The graph that ONNX Runtime executes: the optimiser's rewriting of a file, written out and read back."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from pipeline.choices import Optimization
from pipeline.errors import InputRejected
from pipeline.onnx import runtime as ort
from pipeline.onnx.executed.graphs import Graph
from pipeline.onnx.model_file import ModelFile
from pipeline.results import RuntimeExecution


@dataclass(frozen=True, eq=False)
class Executed:
    """The graph that a session executes, and the session's version, provider and optimisation level."""

    model: onnx.ModelProto
    runtime: str
    provider: str
    level: Optimization

    @cached_property
    def graph(self) -> Graph:
        return Graph(self.model)

    @cached_property
    def execution(self) -> RuntimeExecution:
        """As a result states it."""
        return RuntimeExecution(
            runtime="ONNX Runtime",
            version=self.runtime,
            provider=self.provider,
            optimization=self.level,
            graph_sha256=canonical_digest(self.graph),
        )

    def __str__(self) -> str:
        return f"ONNX Runtime {self.runtime} ({self.provider.upper()}, graph optimization level {self.level!r})"


def optimised(model: ModelFile | bytes, *, provider: str, level: Optimization) -> Executed:
    """The graph that ONNX Runtime executes of a model at a level, from a new session. Raises what ``runtime.session`` raises."""
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        path = Path(folder) / "executed.onnx"
        ort.session(model, provider=provider, level=level, written_to=path)
        if not path.is_file():
            raise InputRejected("ONNX Runtime must write out the graph that it executes; it wrote none.")
        return Executed(onnx.load(path), ort.version(), provider, level)


def canonical_digest(graph: Graph) -> str:
    """SHA-256 of the computation: of operator, attributes and inputs of each value, whatever values and nodes are called."""
    digests: dict[str, str] = {}
    arrays: dict[str, str] = {}
    pending = list(graph.outputs)
    while pending:
        value = pending[-1]
        if value in digests:
            pending.pop()
            continue
        op = graph.producer(value)
        if op is None:
            pending.pop()
            digests[value] = _hash("input", value) if value in graph.inputs else _constant(graph, value, arrays)
            continue
        missing = [v for v in op.inputs if v and v not in digests]
        if missing:
            pending.extend(missing)
            continue
        attributes = sorted((k, repr(v)) for k, v in op.attributes.items())
        inputs = [digests[v] if v else "" for v in op.inputs]
        for index, output in enumerate(op.outputs):
            if output:
                digests[output] = _hash(op.type, repr(attributes), *inputs, str(index))
    return _hash("graph", *(f"{name}={digests[name]}" for name in graph.outputs))


def _constant(graph: Graph, value: str, arrays: dict[str, str]) -> str:
    if value not in arrays:
        array = graph.constants[value]
        arrays[value] = _hash(str(array.dtype), str(array.shape), hashlib.sha256(array.tobytes()).hexdigest())
    return arrays[value]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
