"""The float32 kernels of ONNX Runtime for functions of one number: the function of each, and the ways to run it.

No standard bounds the error of a Sigmoid or an Exp, and each build has its own polynomials. ``kernel_sweep.py`` tries all 2^32
inputs in the forms that are defined here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from pipeline.core.floating_point import U32

CHUNK = 1 << 16
"""The longest tensor on which a kernel is run here."""
PIECES = 1 << 10
"""About how many inputs one run on short tensors takes."""
_OPSET = 20
_BEYOND = 800.0
"""Arguments of exp are clamped here, where ``e^-|x|`` is zero in float64: libraries may be much slower beyond."""

ROOT_ERROR = 2.0**-24
"""How far a file's own ``sqrt 2`` may lie from it, relative. It changes ``erf`` by no more, relative: ``z erf'(z) <= erf(z)``."""
_INFINITE = 2.0**128 - 2.0**103
"""The least number that rounds to infinity."""

Shape = int | str | list[int | str | None]
Run = Callable[[np.ndarray], np.ndarray]
"""A kernel on up to ``CHUNK`` float32 inputs."""


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
    most: float = math.inf
    """``least`` and ``most`` are the smallest and the largest input that are covered."""
    node: str | None = None
    """The ONNX operator, where it is not the kernel's name here."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    product: Callable[[Tensor], Tensor] | None = None
    """For a function ``g`` that is measured by ``x (c + g(x)) / (c + 1)``, ``c`` 0 or 1, alone: that product."""
    bias: bool = False
    """Whether the operator first adds a second input, for which zeros are given here."""
    rows: bool = False
    """Whether the kernel is the exponential inside a Softmax, which can be measured by the Softmax's outputs only."""
    unseen: float = 0.0
    """The relative error that operations between the kernel and the measured outputs may hide."""


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(x.neg().clamp(-_BEYOND, _BEYOND)))


def _silu(x: Tensor) -> Tensor:
    return x * _sigmoid(x)


def _scaled_erf(x: Tensor) -> Tensor:
    return torch.erf(x * 0.5**0.5)


def _gelu(x: Tensor) -> Tensor:
    return x / 2 * torch.erfc(x * -(0.5**0.5))


def _tanh_gelu(x: Tensor) -> Tensor:
    """``x/2 (1 + tanh z)  =  x / (1 + exp(-2 z))``, ``z = sqrt(2/pi) (x + 0.044715 x^3)``."""
    z = -2 * (2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)
    return x / (1 + torch.exp(z.clamp(-_BEYOND, _BEYOND)))


def _mish(x: Tensor) -> Tensor:
    """``x tanh(log(1 + e^x))``; with ``e = e^-|x|`` the tanh is ``(1 + 2e)/(1 + 2e + 2e^2)`` or ``(e^2 + 2e)/(e^2 + 2e + 2)``."""
    e = torch.exp(-x.abs())
    rises, falls = (1 + 2 * e) / (1 + 2 * e + 2 * e * e), (e * e + 2 * e) / (e * e + 2 * e + 2)
    return x * torch.where(x > 0, rises, falls)


def _exp(x: Tensor) -> Tensor:
    return torch.exp(x.clamp(-_BEYOND, _BEYOND))


def _elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.expm1(x.clamp(-_BEYOND, 0)))


# ONNX's defaults of alpha and gamma, which are float32 numbers.
_SELU = (float(np.float32(1.67326319217681884765625)), float(np.float32(1.05070102214813232421875)))

OPERATORS: Mapping[str, Kernel] = {
    "Sigmoid": Kernel(_sigmoid, tail=7),
    "Tanh": Kernel(torch.tanh, tail=7),
    "Exp": Kernel(_exp, pivot=2.0**-120, tail=7),
    "Erf": Kernel(torch.erf, tail=7),
    # Both compared values were multiplied by the same number, and rounded.
    "Softmax": Kernel(_exp, pivot=2.0**-100, tail=5, most=0.0, rows=True, unseen=2.01 * U32),
    "Softplus": Kernel(lambda x: x.clamp_min(0) + torch.log1p(_exp(-x.abs())), pivot=1.0),
    "Elu": Kernel(_elu, pivot=1.0),
    "Gelu": Kernel(_gelu, pivot=1.0, tail=7),
    "FastGelu": Kernel(_tanh_gelu, pivot=1.0, tail=7, node="Gelu", attributes={"approximate": "tanh"}),
    "BiasGelu": Kernel(_gelu, pivot=1.0, tail=7, domain="com.microsoft", bias=True),
    # What ONNX Runtime makes of x Sigmoid(x), and of x (1 + Erf(x / sqrt 2)) / 2: the inner function, as it errs there.
    "QuickGelu": Kernel(_sigmoid, tail=7, attributes={"alpha": 1.0}, domain="com.microsoft", product=_silu),
    "ErfInGelu": Kernel(_scaled_erf, tail=7, node="Gelu", domain="com.microsoft", product=_gelu, unseen=ROOT_ERROR),
    "ErfInBiasGelu": Kernel(
        _scaled_erf, tail=7, node="BiasGelu", domain="com.microsoft", product=_gelu, unseen=ROOT_ERROR, bias=True
    ),
    "Celu": Kernel(_elu, pivot=1.0),
    "Selu": Kernel(lambda x: _SELU[1] * torch.where(x > 0, x, _SELU[0] * _elu(x.clamp(max=0))), pivot=1.0),
    "Softsign": Kernel(lambda x: x / (1 + x.abs())),
    "Mish": Kernel(_mish, pivot=1.0),
    "Atan": Kernel(torch.atan),
    # Below the smallest normal number, flushing the argument to zero would change the logarithm arbitrarily.
    "Log": Kernel(torch.log, pivot=1.0, least=2.0**-126),
    "Sin": Kernel(torch.sin),
    "Cos": Kernel(torch.cos),
}
"""The kernels that can be measured: those that rules need and that are, or contain, functions of one number."""


def full(operator: str) -> Run:
    """The kernel on one long tensor: its loop over vectors."""
    if OPERATORS[operator].rows:
        return _row(CHUNK)
    return _seen(operator, _session(_nodes(operator, "x", "y"), "n", optimised=True))


def rest(operator: str) -> Run:
    """The kernel on an equally long tensor, with the scalar code for elements that fill no vector.

    Eigen uses vectors for the aligned part of the output, and scalar code for the rest; an output that begins at an odd byte has
    no aligned part. Other libraries compute such an output like any other.
    """
    kernel = OPERATORS[operator]
    if kernel.rows:
        return _row(kernel.tail)
    session, memory, x = (
        _inference(_nodes(operator, "x", "y"), CHUNK, optimised=True),
        np.zeros(4 * CHUNK + 64, np.uint8),
        np.zeros(CHUNK, np.float32),
    )
    odd = (-memory.ctypes.data) % 64 + 1
    bound = session.io_binding()
    bound.bind_input("x", "cpu", 0, np.float32, [CHUNK], x.ctypes.data)
    bound.bind_output("y", "cpu", 0, np.float32, [CHUNK], memory.ctypes.data + odd)

    def apply(values: np.ndarray) -> np.ndarray:
        x[: len(values)], x[len(values) :] = values, 0
        session.run_with_iobinding(bound)
        return np.frombuffer(memory[odd : odd + 4 * len(values)].tobytes(), np.float32)

    return _seen(operator, apply)


def in_pieces(operator: str, size: int | None = None) -> Run:
    """The kernel on tensors of ``size`` numbers each, by default shorter than a vector.

    One graph splits, applies and concatenates, since a call into ONNX Runtime takes ten times as long as a node.
    """
    kernel = OPERATORS[operator]
    if kernel.rows:
        return _row(16)
    size = size or kernel.tail
    count = -(-PIECES // size)
    length = count * size
    names = [[f"{letter}{i}" for i in range(count)] for letter in "ab"]
    nodes = [helper.make_node("Split", ["x"], names[0], num_outputs=count)]
    nodes += [node for a, b in zip(*names, strict=True) for node in _nodes(operator, a, b)]
    run = _session([*nodes, helper.make_node("Concat", names[1], ["y"], axis=0)], length, optimised=False)

    def apply(x: np.ndarray) -> np.ndarray:
        filled = np.concatenate([x, np.full(-len(x) % length, x[-1])])
        parts = [run(filled[i : i + length]) for i in range(0, len(filled), length)]
        return np.concatenate(parts)[: len(x)]

    return _seen(operator, apply)


def _seen(operator: str, run: Run) -> Run:
    """The kernel itself; of a product ``y = x (c + g(x)) / (c + 1)``, in float64, ``g`` as it is seen by ``y``.

    That is ``g(x) + (c + 1) (y - x (c + g(x)) / (c + 1)) / |x|``, with ``2^-126`` for a smaller ``|x|``: an error ``E`` of it is
    one of ``E |x| / (c + 1)`` of the product. An infinite product is taken for the least number that rounds to infinity.
    """
    kernel = OPERATORS[operator]
    if kernel.product is None:
        return run
    whole, parts = kernel.product, 1 if kernel.product is _silu else 2

    def apply(x: np.ndarray) -> np.ndarray:
        wide = torch.from_numpy(x).double()
        error = np.clip(run(x).astype(np.float64), -_INFINITE, _INFINITE) - whole(wide).numpy()
        return kernel.reference(wide).numpy() + parts * error / np.maximum(np.abs(x.astype(np.float64)), 2.0**-126)

    return apply


def _row(size: int) -> Run:
    """``e^x`` for ``x <= 0`` as ``p_x / p_0`` in rows of one zero and ``size`` inputs, in float64."""
    run = _session([helper.make_node("Softmax", ["x"], ["y"], axis=-1)], [None, None], optimised=True)

    def apply(x: np.ndarray) -> np.ndarray:
        wide = min(size, len(x))
        filled = np.concatenate([x, np.full(-len(x) % wide, x[-1])]).reshape(-1, wide)
        got = run(np.concatenate([np.zeros((len(filled), 1), np.float32), filled], 1)).astype(np.float64)
        return (got[:, 1:] / got[:, :1]).reshape(-1)[: len(x)]

    return apply


def _nodes(operator: str, x: str, y: str) -> list[onnx.NodeProto]:
    kernel = OPERATORS[operator]
    before = [helper.make_node("Sub", [x, x], [f"{x}_zero"])] if kernel.bias else []
    inputs = [x, f"{x}_zero"] if kernel.bias else [x]
    return [*before, helper.make_node(kernel.node or operator, inputs, [y], domain=kernel.domain, **kernel.attributes)]


def _inference(nodes: list[onnx.NodeProto], shape: Shape, *, optimised: bool) -> Any:
    import onnxruntime as ort

    dims: list[int | str | None] = shape if isinstance(shape, list) else [shape]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in "xy")
    graph = helper.make_graph(nodes, "kernel", [x], [y])
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options, levels = ort.SessionOptions(), ort.GraphOptimizationLevel
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _session(nodes: list[onnx.NodeProto], shape: Shape, *, optimised: bool) -> Run:
    inference = _inference(nodes, shape, optimised=optimised)
    return lambda x: np.asarray(inference.run(None, {"x": x})[0])
