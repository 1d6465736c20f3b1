"""What ONNX Runtime fuses stays inside the bounds of the file as it stands, at every level of optimisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from pipeline.bounds.ibp import IntervalWalk
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from tests.onnx import files
from tests.onnx.files import load

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
W, B = files.weights(8, 4, 3, 3), files.weights(8, seed=1)
NORM = {"s": files.weights(8, seed=2), "t": files.weights(8, seed=3), "m": files.weights(8, seed=4) * 30}
NORM["v"] = np.abs(files.weights(8, seed=5)) + 1e-3
MATRIX = files.weights(16, 9, seed=6)
IMAGE = ("n", 4, 6, 6)
conv = files.node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1])
norm = files.node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"])

GRAPHS = {
    "Conv+BN": ([conv, norm], IMAGE, {"w": W, "b": B, **NORM}),
    "Conv+BN+Mul": (
        [
            conv,
            files.node("BatchNormalization", ["c", "s", "t", "m", "v"], ["d"]),
            files.node("Mul", ["d", "k"], ["y"]),
        ],
        IMAGE,
        {"w": W, "b": B, **NORM, "k": files.weights(8, 1, 1, seed=7)},
    ),
    "Conv+Mul": ([conv, files.node("Mul", ["c", "k"], ["y"])], IMAGE, {"w": W, "b": B, "k": files.weights(8, 1, 1)}),
    "Conv+Add": (
        [conv, files.node("Add", ["c", "k"], ["y"])],
        IMAGE,
        {"w": W, "b": B, "k": files.weights(8, 1, 1) * 100},
    ),
    "Conv+Add+Relu": (
        [
            files.node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            files.node("Conv", ["x", "w2"], ["z"]),
            files.node("Add", ["c", "z"], ["a"]),
            files.node("Relu", ["a"], ["y"]),
        ],
        IMAGE,
        {"w": W, "b": B, "w2": files.weights(8, 4, 1, 1, seed=8) * 1000},
    ),
    "MatMul+Add": (
        [files.node("MatMul", ["x", "w"], ["h"]), files.node("Add", ["h", "b"], ["y"])],
        ("n", 16),
        {"w": MATRIX, "b": files.weights(9, seed=9) * 1000},
    ),
    "Gemm, scaled": (
        [files.node("Gemm", ["x", "w", "b"], ["h"], alpha=0.5, beta=2.0), files.node("Mul", ["h", "k"], ["y"])],
        ("n", 16),
        {"w": MATRIX, "b": files.weights(9), "k": np.float32(0.3)},
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_level_of_optimisation_stays_inside(name, tmp_path):
    nodes, shape, constants = GRAPHS[name]
    path = tmp_path / "model.onnx"
    onnx.save(files.model(nodes, shape, constants), path)
    network = load(path).network.in_float64()
    fused = set()
    for scale in (1.0, 1e-3, 1e6):
        x = files.weights(5, *shape[1:], seed=10) * np.float32(scale)
        point = torch.from_numpy(x).double()
        box = IntervalWalk(network, Outward(deployed=True)).boxes([Interval(point, torch.zeros_like(point))])[-1]
        for level in LEVELS:
            saved = tmp_path / f"{level}.onnx"
            session = optimised(path, level, saved)
            again = ort.InferenceSession(str(saved), providers=["CPUExecutionProvider"])
            for run in (session, again):
                for batch in (1, 5):
                    y = np.concatenate([run.run(None, {"x": x[i : i + batch]})[0] for i in range(0, 5, batch)])
                    excess = (torch.from_numpy(y).double() - box.center).abs() - box.radius
                    assert float(excess.max()) <= 0, f"{level}, batch {batch}, scale {scale}"
            fused.add(tuple(n.op_type for n in onnx.load(saved).graph.node))
    assert len(fused) > 1 or name == "Gemm, scaled", "nothing was fused: the test would not notice what fusion does"


def optimised(path: Path, level: str, saved: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(saved)
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
