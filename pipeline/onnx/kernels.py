"""How far ONNX Runtime's float32 kernels of activations lie from the functions they stand for, measured at every float32.

No standard bounds the error of a Sigmoid or an Exp, and each build has its own polynomials; there are only 2^32 inputs, so
all of them are tried, in full vectors and in the rest that a vector loop leaves over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from pipeline.errors import EnvironmentFailure

PATTERNS = 1 << 32
CHUNK = 1 << 16
_PIECES = 1 << 12
LARGEST = 2.0**126
"""Results beyond it are not covered: a kernel may saturate or overflow early."""
_OPSET = 20
_REFERENCE = 16 * 2.0**-53
"""What a reference below may err by, in float64: 4 ulp (8 w) for the library's function, the rest for what joins them."""

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Kernel:
    """One operator: its function in float64, and how its error is stated.

    Where ``|f| >= pivot`` the error is relative to ``f``, below it is absolute. ``tail`` is shorter than the shortest vector
    of the code that computes it: 8 lanes in MLAS (with AVX2), 4 in Eigen.
    """

    reference: Callable[[Tensor], Tensor]
    pivot: float = math.inf
    tail: int = 3
    least: float = -math.inf
    """The smallest input that is covered."""
    node: str | None = None
    """The ONNX operator, where a kernel goes by another name here."""
    attributes: Mapping[str, str] = field(default_factory=dict)


def _gelu(x: Tensor) -> Tensor:
    return x / 2 * torch.erfc(x * -(0.5**0.5))


def _tanh_gelu(x: Tensor) -> Tensor:
    """``x/2 (1 + tanh z)  =  x / (1 + exp(-2 z))``, ``z = sqrt(2/pi) (x + 0.044715 x^3)``."""
    return x / (1 + torch.exp(-2 * (2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


def _mish(x: Tensor) -> Tensor:
    """``x tanh(log(1 + e^x))``; with ``e = e^-|x|`` the tanh is ``(1 + 2e)/(1 + 2e + 2e^2)`` or ``(e^2 + 2e)/(e^2 + 2e + 2)``."""
    e = torch.exp(-x.abs())
    rises, falls = (1 + 2 * e) / (1 + 2 * e + 2 * e * e), (e * e + 2 * e) / (e * e + 2 * e + 2)
    return x * torch.where(x > 0, rises, falls)


# ONNX's defaults of alpha and gamma, which are float32 numbers.
_SELU = (float(np.float32(1.67326319217681884765625)), float(np.float32(1.05070102214813232421875)))

OPERATORS: Mapping[str, Kernel] = {
    "Sigmoid": Kernel(lambda x: 1 / (1 + torch.exp(-x)), tail=7),
    "Tanh": Kernel(torch.tanh, tail=7),
    "Exp": Kernel(torch.exp, pivot=2.0**-120, tail=7),
    "Erf": Kernel(torch.erf, tail=7),
    "Softplus": Kernel(lambda x: x.clamp_min(0) + torch.log1p(torch.exp(-x.abs())), pivot=1.0),
    "Elu": Kernel(lambda x: torch.where(x > 0, x, torch.expm1(x)), pivot=1.0),
    "Gelu": Kernel(_gelu, pivot=1.0, tail=7),
    "FastGelu": Kernel(_tanh_gelu, pivot=1.0, tail=7, node="Gelu", attributes={"approximate": "tanh"}),
    "Celu": Kernel(lambda x: torch.where(x > 0, x, torch.expm1(x)), pivot=1.0),
    "Selu": Kernel(lambda x: _SELU[1] * torch.where(x > 0, x, _SELU[0] * torch.expm1(x)), pivot=1.0),
    "Softsign": Kernel(lambda x: x / (1 + x.abs())),
    "Mish": Kernel(_mish, pivot=1.0),
    "Atan": Kernel(torch.atan),
    # Below the smallest normal number flushing the argument to zero would change the logarithm by anything.
    "Log": Kernel(torch.log, pivot=1.0, least=2.0**-126),
    "Sin": Kernel(torch.sin),
    "Cos": Kernel(torch.cos),
}
"""What can be measured: the kernels that rules ask for, except those that are no function of one number, as a Softmax is none."""


@dataclass(frozen=True)
class Measured:
    """``|fl(f)(x) - f(x)| <= absolute + relative |f(x)|`` at every ``x`` tried."""

    absolute: float
    relative: float
    patterns: int
    """How many bit patterns were tried; all 2^32 make a table."""
    points: int
    """How many of them are finite, and counted."""
    tail_mismatches: int
    """How often the rest of a vector loop gave other bits than a full vector; its error is among those above."""
    largest: float
    seconds: float


@dataclass(frozen=True)
class Sweep:
    """How far a measurement has come, in patterns, and an estimate of the whole in seconds."""

    done: int
    total: int
    seconds: float


def measure(
    operator: str, *, count: int = PATTERNS, full: Run | None = None, rest: Run | None = None
) -> Iterator[Sweep | Measured]:
    """Try ``count`` float32 bit patterns, all of them or evenly spaced ones; the last value yielded is the Measured.

    ``full`` and ``rest`` are the kernel on a long tensor and on many short ones, by default ONNX Runtime's on one core.
    Infinities and NaN are left out. Raises EnvironmentFailure if the kernel is not finite where the function is.
    """
    kernel = OPERATORS[operator]
    full, rest = full or on_runtime(operator), rest or in_pieces(operator, kernel.tail)
    started, stride = time.monotonic(), (PATTERNS // count) | 1
    absolute = relative = largest = 0.0
    points = mismatches = 0
    for start in range(0, count, CHUNK):
        index = np.arange(start, min(start + CHUNK, count), dtype=np.uint64)
        inputs = (index * np.uint64(stride)).astype(np.uint32).view(np.float32)
        inputs = inputs[np.isfinite(inputs) & (inputs >= kernel.least)]
        if len(inputs):
            one, other = full(inputs), rest(inputs)
            differ = one.view(np.uint32) != other.view(np.uint32)
            mismatches += int(np.count_nonzero(differ))
            exact = kernel.reference(torch.from_numpy(inputs).double()).numpy()
            for got, at in ((one, slice(None)), (other, differ)):
                a, r, n = _errors(operator, inputs[at], exact[at], got[at], kernel.pivot)
                absolute, relative = max(absolute, a), max(relative, r)
                points += n if got is one else 0
            largest = max(largest, float(np.abs(one[np.isfinite(one)]).max(initial=0.0)))
        done = min(start + CHUNK, count)
        yield Sweep(done, count, (time.monotonic() - started) * count / done)
    yield Measured(absolute, relative, count, points, mismatches, largest, round(time.monotonic() - started, 1))


def _errors(operator: str, x: np.ndarray, exact: np.ndarray, got: np.ndarray, pivot: float) -> tuple[float, float, int]:
    """The largest absolute error below the pivot, the largest relative one from it on, and the number of points."""
    size = np.abs(exact)
    covered = size <= LARGEST
    if not covered.all():
        x, exact, got, size = x[covered], exact[covered], got[covered], size[covered]
    error = np.abs(got - exact)
    error += size * _REFERENCE + (_REFERENCE if pivot >= 1 else 2.0**-1000)
    if not np.isfinite(error).all():
        where = x[~np.isfinite(error)][0]
        raise EnvironmentFailure(f"ONNX Runtime's {operator} is not finite at {where!r}; use `--arithmetic real`.")
    low = size < pivot
    far = error[~low] / size[~low]
    return float(error[low].max(initial=0.0)), float(far.max(initial=0.0)), len(x)


def on_runtime(operator: str) -> Run:
    """The kernel on one tensor of any length."""
    node = _node(operator, "x", "y")
    return _session([node], "n", optimised=True)


def in_pieces(operator: str, size: int) -> Run:
    """The kernel on tensors of ``size`` numbers each, shorter than a vector: what a loop over vectors leaves to its rest.

    One graph splits, applies and joins, for a call into ONNX Runtime costs ten times a node.
    """
    count = -(-_PIECES // size)
    names = [[f"{letter}{i}" for i in range(count)] for letter in "ab"]
    nodes = [helper.make_node("Split", ["x"], names[0], num_outputs=count)]
    nodes += [_node(operator, a, b) for a, b in zip(*names, strict=True)]
    run = _session([*nodes, helper.make_node("Concat", names[1], ["y"], axis=0)], _PIECES, optimised=False)

    def apply(x: np.ndarray) -> np.ndarray:
        filled = np.concatenate([x, np.full(-len(x) % _PIECES, x[-1])])
        parts = [run(filled[i : i + _PIECES]) for i in range(0, len(filled), _PIECES)]
        return np.concatenate(parts)[: len(x)]

    return apply


def _node(operator: str, x: str, y: str) -> onnx.NodeProto:
    kernel = OPERATORS[operator]
    return helper.make_node(kernel.node or operator, [x], [y], **kernel.attributes)


def _session(nodes: list[onnx.NodeProto], length: int | str, *, optimised: bool) -> Run:
    import onnxruntime as ort

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [length]) for name in "xy")
    graph = helper.make_graph(nodes, "kernel", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    options, levels = ort.SessionOptions(), ort.GraphOptimizationLevel
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    inference = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(inference.run(None, {"x": x})[0])
