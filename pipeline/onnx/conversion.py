"""Normalised graph -> Network: node by node through onnx2torch, then lowered.

onnx2torch is imported here alone. It converts one node at a time, so that one that it cannot read is named, and so that no name
of the file reaches the source that torch.fx generates.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from pipeline.core.network import Network, Origin, Port
from pipeline.errors import out_of_memory
from pipeline.onnx.ir import OPSET, Attributes, Node
from pipeline.onnx.lowering import (
    blocks,
    classical,
    layers,
    norms,
    pointwise,
    pools,
    reductions,
    resize,
    shapes,
)
from pipeline.onnx.lowering.builder import Builder
from pipeline.onnx.lowering.lower import Item, lower
from pipeline.onnx.names import shown
from pipeline.onnx.operators import Unsupported, unread
from pipeline.onnx.passes.normalise import NormalisedGraph
from pipeline.onnx.passes.opset_forms import rejection
from pipeline.system.clock import check_time

DETECTION = ("onnx2torch.node_converters.nms", "onnx2torch.node_converters.roialign")
# Importing them enters the operators that they lower.
_LOWERINGS = (blocks, layers, norms, pointwise, pools, reductions, classical, resize, shapes)


def convert(normal: NormalisedGraph, model: onnx.ModelProto, output: str | None = None) -> Network:
    """The Network of a normalised model. Raises InputRejected naming every operator that cannot be imported."""
    graph = normal.model.graph
    build = Builder(normal.constants, normal.sources, normal.shapes, normal.dtypes, free=normal.free_batch)
    build.free_sizes = normal.free_sizes
    for port in graph.input:
        build.input(port.name)
    onnx2torch = _Onnx2Torch(normal)
    failures: Counter[tuple[str, str]] = Counter()
    for node in normal.nodes:
        check_time()
        unnamed = Origin(node.op_type, "", "")
        build.origin = next((normal.origins[v] for v in node.outputs if v in normal.origins), unnamed)
        try:
            fx_nodes = lower(Item(node, onnx2torch.module, build))
            if len(node.outputs) > len(fx_nodes):
                raise Unsupported("its further outputs are read")
            for value, fx_node in zip(node.outputs, fx_nodes, strict=False):
                if value:
                    build.bind(value, fx_node, normal.origins.get(value, unnamed))
        except Unsupported as error:
            failures[node.op_type, str(error)] += 1
        except KeyError:
            if not failures:  # else it reads the output of an operator that failed
                raise
    if not failures:
        failures.update((node.op_type, reason) for node in normal.file_nodes if (reason := unread(node, normal.opset)))
    if failures:
        raise rejection(failures, normal.opset)
    module, provenance = build.finish([o.name for o in graph.output])
    initialisers = {t.name for t in model.graph.initializer}
    file_inputs = [i for i in model.graph.input if i.name not in initialisers]
    inputs = [_port(normal, v.name, i.name) for v, i in zip(graph.input, file_inputs, strict=True)]
    if normal.free_sizes:
        inputs = [_with_free_sizes(p, i) for p, i in zip(inputs, file_inputs, strict=True)]
    output_names = [o.name for o in model.graph.output if output is None or o.name == output]
    outputs = [_port(normal, v.name, name) for v, name in zip(graph.output, output_names, strict=True)]
    return Network(module, tuple(inputs), tuple(outputs), provenance)


class _Onnx2Torch:
    """onnx2torch, one node at a time."""

    def __init__(self, normal: NormalisedGraph):
        with _without_detection():
            from onnx2torch.node_converters import get_converter
            from onnx2torch.onnx_graph import OnnxGraph

        self._get_converter, self._graph = get_converter, OnnxGraph(normal.model.graph)
        self._nodes = {id(n): o for n, o in zip(normal.nodes, self._graph.nodes.values(), strict=True)}

    def module(self, node: Node) -> nn.Module:
        """The module into which onnx2torch converts a node. Raises Unsupported where it cannot."""
        onnx_node = self._nodes[id(node)]
        # Attributes that onnx2torch reads are recorded too.
        onnx_node._proto_attributes = Attributes(onnx_node._proto_attributes, node.attributes.read)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                converter = self._get_converter(operation_type=node.op_type, version=OPSET, domain=node.domain)
                converted: Any = converter(onnx_node, self._graph)
        except NotImplementedError as error:  # onnx2torch has no converter
            raise Unsupported("" if "Converter is not implemented" in str(error) else shown(str(error))) from None
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
            if out_of_memory(error):
                raise
            raise Unsupported(f"onnx2torch cannot read it: {type(error).__name__}") from None
        module: nn.Module = converted.torch_module
        return module


@contextmanager
def _without_detection() -> Iterator[None]:
    """Import onnx2torch without its converters of NonMaxSuppression and RoiAlign, which no lowering uses.

    They alone import torchvision, which imports torch._dynamo: two seconds of CPU and 250 MB in every command. An onnx2torch
    that is already imported is left as it is.
    """
    empty = {name: ModuleType(name) for name in DETECTION if name not in sys.modules}
    sys.modules.update(empty)
    try:
        yield
    finally:
        for name, module in empty.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _port(normal: NormalisedGraph, value: str, name: str) -> Port:
    shape: list[int | None] = list(normal.shapes[value])
    # An output without a batch axis, such as one reduced to a number, keeps its shape.
    if normal.free_batch and shape and shape[0] == normal.shapes[normal.model.graph.input[0].name][0]:
        shape[0] = None
    dtype = torch.from_numpy(np.zeros(0, normal.dtypes[value])).dtype
    return Port(name, dtype, tuple(shape))


def _with_free_sizes(port: Port, declared: onnx.ValueInfoProto) -> Port:
    dims = declared.type.tensor_type.shape.dim
    shape = tuple(
        s if i == 0 or d.dim_value > 0 else None for i, (s, d) in enumerate(zip(port.shape, dims, strict=True))
    )
    return Port(port.name, port.dtype, shape)
