"""An import without a look at parity, ONNX Runtime with its optimiser off, and what must hold between the two."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipeline.bounds.ibp import IntervalWalk
from pipeline.core.interval import Interval
from pipeline.core.network import Network
from pipeline.core.outward import Outward
from pipeline.errors import InputRejected
from pipeline.onnx.conversion import convert
from pipeline.onnx.passes.normalise import normalise
from pipeline.rules import unsupported


def imported(proto: onnx.ModelProto) -> Network:
    """The network without a look at parity, nor at the shapes of outputs that onnx infers, which are not always the runtime's."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for port in bare.graph.output:
        if port.type.HasField("tensor_type"):  # of some operators onnx infers no type, and an empty one is no type
            port.type.tensor_type.ClearField("shape")
    return convert(normalise(bare), bare)


def truth(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Output ``y`` by ONNX Runtime, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(["y"], {"x": x})[0]


def same(proto: onnx.ModelProto, x: np.ndarray, *, tolerance: float = 1e-5) -> Network:
    """The network, whose values are ONNX Runtime's for one, two and all samples, and which bounds can cross."""
    network = imported(proto).requires_grad_(False)
    for count in (1, 2, len(x)):
        expected, got = truth(proto, x[:count]), network(torch.from_numpy(x[:count]))
        assert isinstance(got, torch.Tensor)
        assert got.shape == expected.shape
        assert np.allclose(got.numpy(), expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).max()))
    assert unsupported(network) == ()
    return network


def bounded(proto: onnx.ModelProto, x: np.ndarray, eps: float, *, refused: str = "") -> None:
    """ONNX Runtime's values at points of a box lie in its bounds; in the default mode too, unless ``refused`` by that name."""
    network, center = imported(proto).in_float64(), torch.from_numpy(x).double()
    box = Interval(center, torch.full_like(center, eps))

    def walked(deployed: bool) -> Interval:
        (*_, y) = IntervalWalk(network, Outward(deployed=deployed)).boxes([box])
        assert isinstance(y, Interval)
        return y

    bounds = {False: walked(False)}
    if refused:
        with pytest.raises(InputRejected, match=refused):
            walked(True)
    else:
        bounds[True] = walked(True)
    rng = np.random.default_rng(0)
    for draw in range(24):
        weight = rng.uniform(-1, 1, x.shape)
        point = (x + eps * 0.9999 * (np.sign(weight) if draw % 2 else weight)).astype(np.float32)
        y = torch.from_numpy(truth(proto, point)).double()
        for deployed, b in bounds.items():
            # Of real arithmetic nothing is said about the runtime's own rounding.
            slack = 0.0 if deployed else 1e-5 * float(1 + y.abs().max())
            assert bool(((y - b.center).abs() <= b.radius + slack).all())
