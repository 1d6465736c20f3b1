"""Small ONNX files for tests, written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.network import Network
from pipeline.onnx import importer, model_file, runtime
from pipeline.onnx import write_back as writing
from pipeline.onnx.digest import Digests

FIXTURES = Path(__file__).parent / "fixtures"
IMPORTABLE = sorted(p for p in FIXTURES.glob("*.onnx") if not p.name.startswith("attention"))

node = helper.make_node


def weights(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Numbers of both signs."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    constants: dict[str, np.ndarray] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    ir: int = 8,
    dtype: int = TensorProto.FLOAT,
    extra_inputs: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    """A model from ``x`` of the given shape to ``y``."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, list(shape)), *extra_inputs],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    # Types of outputs are inferred: the checker wants them.
    inferred = onnx.shape_inference.infer_shapes(proto)
    del proto.graph.output[:]
    proto.graph.output.extend(inferred.graph.output)
    return proto


def saved(folder: Path, proto: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(proto, path)
    return path


def load(path: Path, **how: Any) -> importer.Imported:
    """The import of what lies at a path."""
    return importer.load(model_file.read(path), **how)


def session(path: Path, **how: Any) -> runtime.Session:
    """ONNX Runtime on what lies at a path."""
    return runtime.session(model_file.read(path), **how)


def digests(path: Path) -> Digests:
    """The digests of what lies at a path."""
    return model_file.read(path).digests


def write_back(path: Path, network: Network, out: Path, **how: Any) -> writing.WriteBack:
    """The weights of a network into a copy of what lies at a path."""
    return writing.write_back(model_file.read(path), network, out, **how)


def mlp(*, batch: int | str = "batch") -> onnx.ModelProto:
    """MatMul + Add, Relu, MatMul without bias, Relu, Gemm: 6 -> 5 -> 4 -> 3."""
    return model(
        [
            node("MatMul", ["x", "w1"], ["h1"], name="first"),
            node("Add", ["h1", "b1"], ["h2"], name="bias"),
            node("Relu", ["h2"], ["h3"], name="relu1"),
            node("MatMul", ["h3", "w2"], ["h4"], name="second"),
            node("Relu", ["h4"], ["h5"], name="relu2"),
            node("Gemm", ["h5", "w3", "b3"], ["y"], name="last", transB=1),
        ],
        [batch, 6],
        {
            "w1": weights(6, 5, seed=1),
            "b1": weights(5, seed=2),
            "w2": weights(5, 4, seed=3),
            "w3": weights(3, 4, seed=4),
            "b3": weights(3, seed=5),
        },
    )
