"""The float32 kernels of ONNX Runtime for functions of one number: the function of each, and how its error is stated.

No standard bounds the error of a Sigmoid or an Exp, and each build has its own polynomials. ``kernel_sweep.py`` tries all 2^32
inputs in the forms of ``kernel_runs.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.floating_point import U32

_BEYOND = 800.0
"""Arguments of exp are clamped here, where ``e^-|x|`` is zero in float64: libraries may be much slower beyond."""

ROOT_ERROR = 2.0**-24
"""How far a file's own ``sqrt 2`` may lie from it, relative. It changes ``erf`` by no more, relative: ``z erf'(z) <= erf(z)``."""


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


def silu(x: Tensor) -> Tensor:
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
    "QuickGelu": Kernel(_sigmoid, tail=7, attributes={"alpha": 1.0}, domain="com.microsoft", product=silu),
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
