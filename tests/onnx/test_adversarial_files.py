"""Files built to be certified falsely, a dozen and more of each kind: what is certified of them is true on the runtime, at every
level of optimisation and batch size, or they are refused by what is wrong with them.

The kinds: what a node says and an import may not read; a spike that no point meets, beside a giant logit; a graph that the
runtime executes in place of the file's; numbers at the ends of float32; samples of a batch that influence each other. Parity
and attack are off, but for the second kind, whose honest files must also pass parity.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline.certify import PGD, Certification, DeployedFile, Strategy, Work, certify, sample_boxes
from pipeline.certify.prover import Prover
from pipeline.commands.guarantee import require_guarantee
from pipeline.commands.inspection import inspect
from pipeline.commands.subject import open_model
from pipeline.core import ops
from pipeline.core.threat import LinfBall
from pipeline.errors import InputRejected
from pipeline.onnx import model_file, subnormal
from pipeline.onnx.batch.symbolic import Symbolic
from pipeline.onnx.executed import pools
from pipeline.onnx.lowering.lower import LOWERINGS, Item
from pipeline.onnx.operators import TABLE
from pipeline.results import Verdict
from pipeline.rules import require
from pipeline.rules.functions import AbsRule
from pipeline.settings import Settings
from tests.fuzz.falsehoods import KERNELS, LEVELS, labels, parity_off, session
from tests.fuzz.judge import judge
from tests.fuzz.suspects import Draft

EPS = (Fraction(1, 64), Fraction(1, 8), Fraction(1, 2))
BATCHES = (2, 3, 4, 5, 8)
AT, WIDTH = (0.7310586, 0.2689414), 1e-5
"""Where spikes stand, and how wide they are."""
ON_SPIKE = [[a, b] for a in np.float32(AT[0]) + np.linspace(-2e-7, 2e-7, 9, dtype=np.float32) for b in (AT[1], 0.2)]
S = np.float32


@dataclass(frozen=True)
class File:
    """One file: how its logits are made of ``x``, and the words that refuse it; without any its certificates must be true."""

    name: str
    kind: str
    shape: tuple[int, ...]
    build: Callable[[Draft], str]
    says: str | None = None
    opset: int = 17
    samples: Sequence[Any] | None = None
    points: Sequence[Any] = ()
    """Tried beside drawn ones, where a box contains them."""
    alone: bool = False
    """Whether the file fixes a batch of one."""
    breaks: bool = False
    """Whether the runtime gives the first sample another label: near a spike, in some company, with subnormal numbers as zero."""

    def model(self) -> onnx.ModelProto:
        g = Draft(np.random.default_rng(0), self.opset)
        g.nodes.append(helper.make_node("Identity", [self.build(g)], ["y"], name="last"))
        used = {v for n in g.nodes for v in n.input}
        x, y = (
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in (("x", [1 if self.alone else "N", *self.shape]), ("y", None))
        )
        tensors = [numpy_helper.from_array(a, n) for n, a in g.constants.items() if n in used]
        graph = helper.make_graph(g.nodes, "adversarial", [x], [y], tensors)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        (logits,) = session(made.SerializeToString(), "DISABLE_ALL").run(None, {"x": np.zeros((1, *self.shape), S)})
        y.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [1 if self.alone else "N", *logits.shape[1:]]))
        made.graph.output[0].CopyFrom(y)
        return made


FILES: list[File] = []


def file(kind: str, name: str, shape: tuple[int, ...], says: str | None = None, **more: Any) -> Callable[[Any], Any]:
    def enter(build: Callable[[Draft], str]) -> Callable[[Draft], str]:
        FILES.append(File(name, kind, shape, build, says, **more))
        return build

    return enter


def one(name: str) -> File:
    return next(f for f in FILES if f.name == name)


def k(g: Draft, value: float) -> str:
    return g.const(S(value))


def column(g: Draft, i: int, x: str = "x") -> str:
    return g.sliced(x, i, i + 1, 1)


def signed(g: Draft, margin: str) -> str:
    """Logits ``(margin, 0)``."""
    return g("Concat", margin, g("Mul", margin, k(g, 0)), axis=1)


def dense(g: Draft, x: str, n: int) -> str:
    return g("Gemm", g("Flatten", x), g.const(g.normal(n, 2)), g.const(g.normal(2) * S(0.1)))


def corner(g: Draft, x: str) -> str:
    return g("Flatten", g("Slice", x, g.ints(0, 0), g.ints(1, 1), g.ints(2, 3)))


def scaled(g: Draft, x: str, *factors: float) -> str:
    for factor in factors:
        x = g("Mul", x, k(g, factor))
    return x


# What a node says.


@file("import", "Clip from plus infinity", (2,), "Clip (1: its min is inf", samples=[[0.9, 0.9], [0.2, 0.7]])
def _(g: Draft) -> str:
    c = g("Clip", g("Clip", column(g, 0), k(g, np.inf)), "", k(g, 5))
    return signed(g, g("Sub", g("Add", column(g, 1), k(g, 4.5)), c))


@file("import", "Clip to minus infinity", (2,), "Clip (1: its max is -inf", samples=[[0.9, 0.9], [0.2, 0.7]])
def _(g: Draft) -> str:
    c = g("Clip", g("Clip", column(g, 0), "", k(g, -np.inf)), k(g, -5))
    return signed(g, g("Add", g("Add", column(g, 1), k(g, 4.5)), c))


@file("import", "Clip of ends that cross", (2,))
def _(g: Draft) -> str:
    c = g("Clip", column(g, 0), k(g, 0.8), k(g, 0.2))
    return signed(g, g("Sub", g("Add", c, column(g, 1)), k(g, 0.5)))


@file("import", "Celu divides by a subnormal", (2,), "Celu (1: its alpha is 2.93874e-39, by which it divides")
def _(g: Draft) -> str:
    return g("Celu", g("Sub", "x", k(g, 0.5)), alpha=2.0**-128)


@file("import", "HardSigmoid of nearly a sixth", (2,))
def _(g: Draft) -> str:
    c = g("HardSigmoid", scaled(g, column(g, 0), 2.9), alpha=1 / 6 + 0.98e-7, beta=0.5)
    plain = g("Add", scaled(g, column(g, 0), 2.9 / 6), k(g, 0.5))
    return signed(g, g("Sub", scaled(g, g("Sub", c, plain), 1e6), k(g, 0.1)))


@file("import", "PRelu with a slope a row", (2, 3, 2), opset=9)
def _(g: Draft) -> str:
    return dense(g, g("PRelu", g("Sub", "x", k(g, 0.5)), g.const(g.normal(3, 1))), 12)


@file("import", "MaxPool dilated, lopsided, rounded up", (1, 6, 5))
def _(g: Draft) -> str:
    settings = {"dilations": [2, 1], "strides": [2, 2], "pads": [0, 1, 1, 0], "ceil_mode": 1}
    return dense(g, g("MaxPool", g("Sub", "x", k(g, 2)), kernel_shape=[2, 2], **settings), 9)


@file("import", "AveragePool that counts its padding, rounded up", (1, 6, 5), opset=19)
def _(g: Draft) -> str:
    settings = {"strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1, "count_include_pad": 1}
    return dense(g, g("AveragePool", "x", kernel_shape=[3, 2], **settings), 9)


@file("import", "Gemm with all of its attributes", (3,))
def _(g: Draft) -> str:
    turned = g("Transpose", "x", perm=[1, 0])
    return g("Gemm", turned, g.const(g.normal(2, 3)), g.const(g.normal(1)), transA=1, transB=1, alpha=-0.7, beta=3.0)


@file("import", "ConvTranspose with all of its attributes", (2, 3, 3))
def _(g: Draft) -> str:
    settings = {"strides": [2, 3], "dilations": [2, 1], "output_padding": [1, 2], "pads": [1, 0, 0, 1], "group": 2}
    return dense(g, g("ConvTranspose", "x", g.const(g.normal(2, 1, 2, 2)), g.const(g.normal(2)), **settings), 126)


@file("import", "Split into parts that are not equal", (5,), opset=18)
def _(g: Draft) -> str:
    first = g("Split", "x", outputs=3, axis=-1, num_outputs=3)
    return g("Concat", first.replace("_0", "_2"), first, axis=1)


@file("import", "Pad that reflects by axes, and cuts", (1, 4, 4), opset=18)
def _(g: Draft) -> str:
    return dense(g, g("Pad", "x", g.ints(-1, 2), "", g.ints(-1), mode="reflect"), 20)


@file("import", "Pad around the edges", (1, 3, 3), opset=19)
def _(g: Draft) -> str:
    return dense(g, g("Pad", "x", g.ints(0, 0, 1, 2, 0, 0, 2, 1), mode="wrap"), 36)


@file("import", "Slice backwards past both ends", (5,))
def _(g: Draft) -> str:
    return dense(g, g("Slice", "x", g.ints(10), g.ints(-10), g.ints(1), g.ints(-2)), 3)


@file("import", "Resize with symmetric half pixels", (1, 3, 4), opset=19)
def _(g: Draft) -> str:
    mode = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel_symmetric"}
    return dense(g, g("Resize", "x", "", g.const([1, 1, 1.5, 0.7]), **mode), 8)


@file("import", "MaxPool's second output", (1, 4, 4), "MaxPool (1: its output Indices is read)")
def _(g: Draft) -> str:
    m = g("MaxPool", "x", outputs=2, kernel_shape=[2, 2])
    return dense(g, g("Add", m, g("Cast", m.replace("_0", "_1"), to=1)), 9)


@file("import", "BatchNormalization of each place", (3,), "BatchNormalization (1: its attribute spatial = 0", opset=7)
def _(g: Draft) -> str:
    return g("BatchNormalization", "x", *(g.const(np.abs(g.normal(3)) + S(0.1)) for _ in range(4)), spatial=0)


def sized(name: str, says: str, **more: Any) -> Callable[[Any], Any]:
    """A margin that loses as much as a shape, which is computed from data, has grown by."""

    def enter(shape: Callable[[Draft], str]) -> Callable[[Draft], str]:
        def build(g: Draft) -> str:
            size = g("Reshape", g("Cast", shape(g), to=1), g.ints(1, 1))
            return signed(g, g("Sub", g("Add", column(g, 0), k(g, 1.3)), size))

        settings = {"alone": True, "samples": [[0.45, 0.4, 0.3]], "breaks": True}
        file("import", name, (3,), says, **settings | more)(build)
        return shape

    return enter


def large(g: Draft) -> str:
    """How many entries are above a half."""
    above = g("Ceil", g("Relu", g("Sub", "x", k(g, 0.5))))
    return g("Cast", g.reduced("ReduceSum", above, [1], 0), to=7)


@sized("how many entries NonZero finds", "NonZero (1: the shape of its output depends on values), Shape (1)")
def _(g: Draft) -> str:
    return g("Gather", g("Shape", g("NonZero", g("Relu", g("Sub", "x", k(g, 0.5))))), g.ints(1))


@sized("how long a Slice is that ends where data say", "Shape (1), Slice (1: its input 2 is computed")
def _(g: Draft) -> str:
    return g("Gather", g("Shape", g("Slice", "x", g.ints(0), large(g), g.ints(1))), g.ints(1))


@sized("the Size of a constant that data fill", "ConstantOfShape (1), Size (1)")
def _(g: Draft) -> str:
    return g("Size", g("ConstantOfShape", large(g)))


@sized(
    "the sum of as many ones as a Resize makes",
    "Resize (1: its size depends on the batch, on free sizes of the input, or on data",
)
def _(g: Draft) -> str:
    sizes = g("Concat", g.ints(1, 1), g("Add", large(g), g.ints(1)), axis=0)
    made = g("Resize", g.const([[[1, 1]]]), "", "", sizes)
    return g("Sub", g.reduced("ReduceSum", made, [2]), k(g, 1))


@sized("how many are greatest", "TopK (1: which entries")
def _(g: Draft) -> str:
    return g("Gather", g("Shape", g("TopK", "x", large(g), outputs=2)), g.ints(1))


@sized("a tensor of a sequence", "SequenceConstruct makes a sequence", breaks=False)
def _(g: Draft) -> str:
    both = g("SequenceConstruct", g.const([1.0]), g.const([1.0, 2.0]))
    return g(
        "Sub", g("Shape", g("SequenceAt", both, g("Clip", g("Squeeze", large(g)), g.ints(0), g.ints(1)))), g.ints(1)
    )


# A spike, beside a giant logit.


def spiky(g: Draft, bump: str, depth: float = 2.0, giant: float = -1e9) -> str:
    """``(x_0 + 0.1 - depth bump, 0, giant)``."""
    rest = g("Add", column(g, 0), k(g, 0.1)) if bump else column(g, 0)
    logits = signed(g, g("Sub", rest, scaled(g, bump, depth)))
    return g("Concat", logits, g("Add", scaled(g, column(g, 0), 0), k(g, giant)), axis=1)


def offset(g: Draft) -> str:
    """``(x_0 - AT) / WIDTH``."""
    return scaled(g, g("Sub", column(g, 0), k(g, AT[0])), 1 / WIDTH)


def hat(g: Draft, i: int) -> str:
    gap = g("Abs", g("Sub", column(g, i), k(g, AT[i])))
    return scaled(g, g("Relu", g("Sub", k(g, WIDTH), gap)), 1 / WIDTH)


def spike(name: str, **more: Any) -> Callable[[Any], Any]:
    return file("parity", name, (2,), points=ON_SPIKE, samples=[[0.75, 0.25], [0.7, 0.3]], breaks=True, **more)


@spike("a hat of Abs")
def _(g: Draft) -> str:
    return spiky(g, hat(g, 0))


@spike("a gap between two Signs")
def _(g: Draft) -> str:
    ends = [g("Sign", g("Sub", column(g, 0), k(g, AT[0] + side * WIDTH))) for side in (-1, 1)]
    return spiky(g, g("Sub", *ends))


@spike("a gap between two Floors")
def _(g: Draft) -> str:
    ends = [g("Floor", g("Add", column(g, 0), k(g, 1 - AT[0] + side * WIDTH))) for side in (1, -1)]
    return spiky(g, g("Sub", *ends))


@spike("a gap between two Rounds")
def _(g: Draft) -> str:
    ends = [g("Round", g("Sub", column(g, 0), k(g, AT[0] - 0.5 - side * WIDTH))) for side in (1, -1)]
    return spiky(g, g("Sub", *ends))


@spike("the Min of two clipped ramps")
def _(g: Draft) -> str:
    s = offset(g)
    ramps = [g("Clip", v, k(g, 0), k(g, 1)) for v in (g("Add", s, k(g, 1)), g("Sub", k(g, 1), s))]
    return spiky(g, g("Min", *ramps))


@spike("a resonance of Reciprocal")
def _(g: Draft) -> str:
    return spiky(g, g("Reciprocal", g("Add", g("Pow", offset(g), k(g, 2)), k(g, 1))))


@spike("a product of two HardSigmoids")
def _(g: Draft) -> str:
    s = offset(g)
    return spiky(g, g("Mul", g("HardSigmoid", g("Add", s, k(g, 2))), g("HardSigmoid", g("Sub", k(g, 2), s))), 4)


@spike("a MaxPool of two hats")
def _(g: Draft) -> str:
    hats = g("Unsqueeze", g("Concat", hat(g, 0), hat(g, 1), axis=1), g.ints(1))
    return spiky(g, g("Flatten", g("MaxPool", hats, kernel_shape=[2])))


@spike("a hat times a sawtooth")
def _(g: Draft) -> str:
    s = scaled(g, column(g, 1), 50)
    return spiky(g, g("Mul", hat(g, 0), g("Sub", s, g("Floor", s))), 20)


@spike("the ReduceMin of a row of ramps")
def _(g: Draft) -> str:
    s = offset(g)
    row = g("Concat", g("Add", s, k(g, 1)), g("Sub", k(g, 1), s), axis=1)
    return spiky(g, g("Relu", g("ReduceMin", row, axes=[1], keepdims=1)))


@spike("a hinge of PRelu, and a logit near the end of float32")
def _(g: Draft) -> str:
    return spiky(g, g("Relu", g("Sub", k(g, 1), g("PRelu", offset(g), k(g, -1)))), giant=-1e37)


@spike("two Sigmoids apart")
def _(g: Draft) -> str:
    s = offset(g)
    return spiky(g, g("Sub", g("Sigmoid", g("Add", s, k(g, 4))), g("Sigmoid", g("Sub", s, k(g, 4)))))


@file("parity", "a giant logit that varies", (2,))
def _(g: Draft) -> str:
    loud = g("Sub", scaled(g, column(g, 1), 1e20), k(g, 2e20))
    return g("Concat", signed(g, g("Sub", column(g, 0), k(g, 0.5))), loud, axis=1)


# The graph that is executed.


@file(
    "executed",
    "a Clip of crossed ends, padded and pooled",
    (1, 2, 2),
    "it pads with minus infinity",
    samples=[[0.9] * 4],
)
def _(g: Draft) -> str:
    c = g("Pad", g("Clip", "x", k(g, 0), k(g, -1)), g.ints(0, 0, 1, 1, 0, 0, 1, 1))
    return signed(g, g("Add", corner(g, g("MaxPool", c, kernel_shape=[2, 2])), scaled(g, corner(g, "x"), 1.2)))


@file(
    "executed",
    "a Pad of -5 in the old form, padded and pooled",
    (1, 2, 2),
    "it pads with minus infinity",
    opset=10,
    samples=[[0.9] * 4],
)
def _(g: Draft) -> str:
    c = g("Relu", "x")
    for value in (-5.0, 0.0):
        c = g("Pad", c, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=value)
    return signed(g, g("Add", corner(g, g("MaxPool", c, kernel_shape=[2, 2])), scaled(g, corner(g, "x"), 10)))


@file("executed", "a falling HardSigmoid, padded and pooled", (1, 2, 2))
def _(g: Draft) -> str:
    c = g("Pad", g("HardSigmoid", "x", alpha=-3.0, beta=1.0), g.ints(0, 0, 1, 1, 0, 0, 1, 1))
    return dense(g, g("MaxPool", c, kernel_shape=[2, 2]), 9)


@file("executed", "a cubic Resize of what is not negative, padded and pooled", (1, 3, 3), "it pads with minus infinity")
def _(g: Draft) -> str:
    c = g("Resize", g("Relu", "x"), "", g.const([1, 1, 2, 2]), mode="cubic")
    return dense(g, g("MaxPool", g("Pad", c, g.ints(0, 0, 1, 1, 0, 0, 1, 1)), kernel_shape=[2, 2]), 49)


@file("executed", "a Pad before an AveragePool that rounds up", (1, 3, 3), "a pooling that rounds its size up")
def _(g: Draft) -> str:
    c = g("Pad", "x", g.ints(0, 0, 1, 0, 0, 0, 0, 1))
    return dense(g, g("AveragePool", c, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1), 4)


@file("executed", "one over x, times y", (2,), "in place of Div 'n3', Mul 'n4'")
def _(g: Draft) -> str:
    y = column(g, 1)
    inverse = g("Div", g.const([1.0]), g("Add", column(g, 0), k(g, 0.5)))
    return signed(g, g("Sub", g("Mul", inverse, y), k(g, 0.6)))


@file("executed", "Not before Where", (2,), "executes Where")
def _(g: Draft) -> str:
    c = g("Not", g("Less", g("Shape", "x", start=1), g.ints(1)))
    return g("Where", c, "x", g("Neg", "x"))


@file("executed", "Gelu of another root in parts, behind a bias", (3,), "executes BiasGelu")
def _(g: Draft) -> str:
    x = g("Add", "x", g.const([0.1, -0.3, 0.2]))
    return scaled(g, g("Mul", x, g("Add", g("Erf", g("Div", x, k(g, 1.41421))), k(g, 1))), 0.5)


@file("executed", "RMSNormalization in parts", (4,), "executes SimplifiedLayerNormalization")
def _(g: Draft) -> str:
    v = g("Add", g("ReduceMean", g("Pow", "x", k(g, 2)), axes=[-1]), k(g, 1e-5))
    return g("Mul", g("Div", "x", g("Sqrt", v)), g.const(g.normal(4)))


@file("executed", "an Elu in the kernel of a Gemm", (3,), "it computes Elu in its own kernel")
def _(g: Draft) -> str:
    return g("Elu", g("Gemm", "x", g.const(g.normal(3, 2)), g.const(g.normal(2))), alpha=1.5)


@file("executed", "a scale moved through a Transpose and a product", (2, 3), "executes FusedMatMul")
def _(g: Draft) -> str:
    turned = g("Transpose", scaled(g, "x", 2.0**-60), perm=[0, 2, 1])
    return dense(g, g("MatMul", turned, g.const(g.normal(2, 2))), 6)


@file("executed", "six scales around a product", (3,), "more than 4 scales")
def _(g: Draft) -> str:
    x = scaled(g, "x", 2.0**-20, 2.0**30, 2.0**-40, 2.0**20, 2.0**20)
    return scaled(g, g("MatMul", x, g.const(g.normal(3, 2))), 2.0**-10)


@file("executed", "weights in whole numbers", (3,), "executes MatMulNBits")
def _(g: Draft) -> str:
    quantized = g.const(g.rng.integers(-99, 99, (3, 2)), np.int8)
    return g("MatMul", "x", g("DequantizeLinear", quantized, k(g, 0.01), g.const(0, np.int8)))


@file("executed", "a matrix times itself", (2, 2), samples=[[0.5] * 4])
def _(g: Draft) -> str:
    """Near the sample ``s_00^2 + s_01 s_10 + 1/128``, with deviations ``s`` of up to an eighth."""
    matrix = g.const(np.reshape([-1, -0.5, -0.5, 0], (4, 1)))
    linear = g("Gemm", g("Flatten", "x"), matrix, g.const([0.5 + 1 / 128]))
    return signed(g, g("Add", column(g, 0, g("Flatten", g("MatMul", "x", "x"))), linear))


@file("executed", "a residual broadcast into a Gemm", (3,))
def _(g: Draft) -> str:
    residual = g.reduced("ReduceSum", g("Relu", "x"), [1])
    return g("Relu", g("Add", g("Gemm", "x", g.const(g.normal(3, 2))), residual))


@file("executed", "a Conv times a plane", (2, 3, 3))
def _(g: Draft) -> str:
    return dense(g, g("Mul", g("Conv", "x", g.const(g.normal(2, 2, 2, 2))), g.const(g.normal(1, 2, 2))), 8)


# The ends of float32.


@file("range", "a constant times a subnormal one", (2,), "Mul 'n0' computes a constant from 7.34684e-40", breaks=True)
def _(g: Draft) -> str:
    return g("Add", g("Mul", g.const([0, 2.0**-130]), k(g, 2.0**125)), scaled(g, "x", 2.0**-7))


@file("range", "a constant whose product is subnormal on the way", (2,), "Mul 'n1' computes a constant", breaks=True)
def _(g: Draft) -> str:
    return g("Add", scaled(g, g.const([0, 2.0**-70]), 2.0**-60, 2.0**125), scaled(g, "x", 2.0**-7))


@file("range", "the Sign of a subnormal constant", (2,), "Sign 'n0' computes a constant", breaks=True)
def _(g: Draft) -> str:
    return g("Add", g("Sign", g.const([0, 2.0**-130])), scaled(g, "x", 0.1))


@file("range", "subnormal constants compared", (2,), "Less 'n0' computes a constant", breaks=True)
def _(g: Draft) -> str:
    less = g("Less", g.const([0, 2.0**-130]), g.const([0, 2.0**-129]))
    return g("Where", less, g("Add", "x", k(g, 3)), "x")


@file("range", "a constant divided by a subnormal one", (2,), "Div 'n0' computes a constant", breaks=True)
def _(g: Draft) -> str:
    c = g("Div", g.const([0, 2.0**-10]), k(g, 2.0**-130))
    return scaled(g, g("Add", scaled(g, "x", 2.0**100), c), 2.0**-120)


@file("range", "a Gemm whose beta is subnormal", (2,), "Gemm 'n0' computes a constant from 7.34684e-40", breaks=True)
def _(g: Draft) -> str:
    return g("Gemm", "x", g.const(np.eye(2) * 2.0**-20), g.const([0, 2.0**125]), beta=2.0**-130)


@file("range", "a Gemm whose bias is subnormal, its beta huge", (2,), "Gemm 'n0' computes a constant from", breaks=True)
def _(g: Draft) -> str:
    return g("Gemm", "x", g.const(np.eye(2) * 2.0**-20), g.const([0, 2.0**-130]), beta=2.0**125)


@file("range", "a logit that is a subnormal constant", (1, 2, 2), breaks=True)
def _(g: Draft) -> str:
    dead = g("Relu", g("Sub", "x", k(g, 2)))
    return g("Flatten", g("MaxPool", g("Pad", dead, g.ints(*[0] * 7, 1), k(g, 1e-39)), kernel_shape=[2, 2]))


@file("range", "a subnormal number times a huge one", (2,), breaks=True)
def _(g: Draft) -> str:
    a = g("Clip", g("Sub", column(g, 0), k(g, 2)), k(g, 2.0**-127), k(g, 2.0**-120))
    b = g("Add", scaled(g, column(g, 1), 2.0**126), k(g, 2.0**124))
    return signed(g, g("Sub", g("Mul", a, b), k(g, 2.0**-5)))


@file("range", "the Ceil of a subnormal number", (2,), breaks=True)
def _(g: Draft) -> str:
    return signed(g, g("Sub", g("Ceil", g("Clip", column(g, 0), k(g, 1e-40), k(g, 2e-40))), k(g, 0.5)))


@file("range", "alpha behind fifty blocks of a long sum", (2,), breaks=True)
def _(g: Draft) -> str:
    wide, every = g("Gemm", "x", g.const(np.full((2, 6400), 0.5))), np.zeros((6400, 1))
    every[::128] = 1
    p = scaled(g, g("Gemm", wide, g.const(every), alpha=2.0**-126.2), 2.0**100, 2.0**22)
    return signed(g, g("Sub", p, k(g, 0.3)))


@file("range", "huge filters, scaled down twice", (2, 3, 3))
def _(g: Draft) -> str:
    c = g("Conv", "x", g.const(g.normal(2, 2, 2, 2) * S(2.0**120)))
    for scale in (2.0**-100, 2.0**-20):
        c = g("Mul", c, g.const(np.full((2, 1, 1), scale)))
    return dense(g, c, 8)


@file("range", "huge numbers whose sum cancels", (4,), samples=[[0.5] * 4])
def _(g: Draft) -> str:
    huge = g("Mul", "x", g.const(np.array([1, 1, -1, -1]) * 2.0**126.5))
    return signed(g, g("Add", scaled(g, g.reduced("ReduceSum", huge, [1]), 2.0**-126), k(g, 0.5)))


@file("range", "a variance that epsilon nearly takes away", (2,), opset=15)
def _(g: Draft) -> str:
    parameters = [g.const(v) for v in ([1, 1], [0, 0], [0, 0], [-1, 1])]
    return g("Mul", g("BatchNormalization", "x", *parameters, epsilon=1.0000001), g.const([2.0**-12, 0.5]))


# Samples of a batch.

APART = "The samples of a batch must not influence one another"


def counted(g: Draft, to: int | None = None) -> str:
    n = g("Gather", g("Shape", "x"), g.ints(0))
    return n if to is None else g("Cast", n, to=to)


def batch(name: str, says: str, shape: tuple[int, ...] = (2,)) -> Callable[[Any], Any]:
    return file("batch", name, shape, says, breaks=True)


@batch("a one that rounding loses at four samples", "may be rounded, or overflow float32")
def _(g: Draft) -> str:
    big = g("Mul", counted(g, 1), g.const([2.0**22]))
    return g("Mul", "x", g("Sub", g("Sub", g("Add", big, k(g, 1)), big), k(g, 0.5)))


@batch("a float64 count that equals a half at five", "may be rounded, or overflow float64")
def _(g: Draft) -> str:
    hit = g("Equal", g("Mul", counted(g, 11), g.const([0.1], np.float64)), g.const([0.5], np.float64))
    return g("Where", hit, g("Neg", "x"), "x")


@batch("a product that turns negative at four", "Less 'n4': a number that depends on the batch size")
def _(g: Draft) -> str:
    less = g("Less", g("Mul", counted(g, 6), g.const([2**29], np.int32)), g.const([0], np.int32))
    return g("Where", less, g("Neg", "x"), "x")


@batch("a quotient of what overflowed at eight", "Div 'n4': a number that depends on the batch size")
def _(g: Draft) -> str:
    n, by = counted(g, 6), g.const([2**28], np.int32)
    gap = g("Cast", g("Sub", g("Div", g("Mul", n, by), by), n), to=1)
    return g("Mul", "x", g("Add", gap, k(g, 1)))


@batch("a whole number widened behind its overflow", "Cast 'n4': a number that depends on the batch size")
def _(g: Draft) -> str:
    wide = g("Cast", g("Mul", counted(g, 6), g.const([2**29], np.int32)), to=7)
    gap = g("Cast", g("Sub", wide, g("Mul", counted(g), g.ints(2**29))), to=1)
    return g("Mul", "x", g("Add", gap, k(g, 1)))


@batch("a product that turns negative at 2048", "may be rounded, or overflow int64")
def _(g: Draft) -> str:
    return g("Where", g("Less", g("Mul", counted(g), g.ints(2**52)), g.ints(0)), g("Neg", "x"), "x")


@batch("an InstanceNormalization over samples", "InstanceNormalization 'n2': it mixes its axis 2")
def _(g: Draft) -> str:
    t = g("Unsqueeze", g("Transpose", "x", perm=[1, 0]), g.ints(0))
    return g(
        "Transpose",
        g("Squeeze", g("InstanceNormalization", t, g.const([1, 1]), g.const([0, 0])), g.ints(0)),
        perm=[1, 0],
    )


@batch("a MaxPool over samples in one row", "MaxPool 'n1': it mixes its axis 2", (4,))
def _(g: Draft) -> str:
    row = g("Reshape", "x", g.ints(1, 1, -1))
    return g("Reshape", g("MaxPool", row, kernel_shape=[3], pads=[1, 1]), g.ints(-1, 4))


@batch("the batch twice, cut by its own size", "Concat 'n2': it runs along axis 0")
def _(g: Draft) -> str:
    end = g("Add", g("Shape", "x", start=0, end=1), g.ints(1))
    return g("Slice", g("Concat", "x", "x", axis=0), g.ints(1), end, g.ints(0))


@batch("the batch repeated, and the mean of each two", "Tile 'n0': it runs along axis 0")
def _(g: Draft) -> str:
    return g("ReduceMean", g("Reshape", g("Tile", "x", g.ints(2, 1)), g.ints(-1, 2, 2)), axes=[1], keepdims=0)


@batch("the sample with the greatest sum", "ArgMax 'n1': it runs along axis 0")
def _(g: Draft) -> str:
    best = g("ArgMax", g.reduced("ReduceSum", "x", [1], 0), axis=0, keepdims=1)
    return g("Sub", "x", g("Gather", "x", best, axis=0))


@batch("every other sample turned round", "Mod 'n4': what it makes of the batch size is not known")
def _(g: Draft) -> str:
    place = g("Range", g.const(0, np.int64), g("Squeeze", counted(g), g.ints(0)), g.const(1, np.int64))
    odd = g("Cast", g("Mod", place, g.const(2, np.int64)), to=9)
    return g("Where", g("Unsqueeze", odd, g.ints(1)), g("Neg", "x"), "x")


@batch("samples multiplied with each other", "MatMul 'n1': samples of one operand meet those of the other")
def _(g: Draft) -> str:
    return g("MatMul", g("EyeLike", g("MatMul", "x", g("Transpose", "x", perm=[1, 0])), k=1), "x")


@file("batch", "sizes in int32, as TensorFlow counts them", (2, 3))
def _(g: Draft) -> str:
    sizes = g("Cast", g("Shape", "x"), to=6)
    width = g("ReduceProd", g.sliced(sizes, 1, 3, 0), keepdims=1)
    return g("Reshape", "x", g("Cast", g("Concat", g.sliced(sizes, 0, 1, 0), width, axis=0), to=7))


# One number for each sample, and samples that are not in front.


@file("batch", "one number a sample, scaled and rectified", (3,))
def _(g: Draft) -> str:
    s = g("Mul", g.reduced("ReduceMean", g("Sub", "x", k(g, 0.4)), [1], 0), k(g, 0.7))
    return signed(g, g("Sub", g("Unsqueeze", g("Relu", g("Add", s, k(g, 0.1))), g.ints(1)), k(g, 0.2)))


@file("batch", "a quotient of one number a sample", (3,))
def _(g: Draft) -> str:
    ends = [g.reduced(r, g("Add", "x", k(g, 0.5)), [1], 0) for r in ("ReduceMax", "ReduceMin")]
    return signed(g, g("Sub", g("Unsqueeze", g("Sigmoid", g("Div", *ends)), g.ints(1)), k(g, 0.82)))


@file("batch", "an Add that puts an axis before the samples", (3,), "does not have the samples along its first axis")
def _(g: Draft) -> str:
    return g("Squeeze", g("Relu", g("Add", "x", g.const(g.normal(1, 1, 3)))), g.ints(0))


@file("batch", "a sample without its axis", (3,), "does not have the samples along its first axis", alone=True)
def _(g: Draft) -> str:
    return g("Unsqueeze", g("Relu", g("Squeeze", g("Sub", "x", k(g, 0.5)), g.ints(0))), g.ints(0))


@file("batch", "a vector times itself", (3,), "it folds the batch", alone=True)
def _(g: Draft) -> str:
    v = g("Reshape", "x", g.ints(3))
    return signed(g, g("Reshape", g("Sub", g("MatMul", v, v), k(g, 1)), g.ints(1, 1)))


@file("batch", "no layer at all", (3,), "those of this one are its input itself")
def _(g: Draft) -> str:
    return g("Transpose", g("Transpose", g("Dropout", "x"), perm=[1, 0]), perm=[1, 0])


# The judge.


class Flushing:
    """A process that runs files with subnormal numbers as zero, which outlives a session."""

    CODE = """
import pickle, sys
import onnxruntime as ort
while task := pickle.load(sys.stdin.buffer):
    content, x = task
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    y = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    pickle.dump(y, sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""

    def __init__(self) -> None:
        self.child = subprocess.Popen([sys.executable, "-c", self.CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, content: bytes, x: np.ndarray) -> np.ndarray:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        pickle.dump((content, x), self.child.stdin)
        self.child.stdin.flush()
        y: np.ndarray = pickle.load(self.child.stdout)
        return np.where(np.isfinite(y).all(1), y.argmax(1), -1)

    def close(self) -> None:
        assert self.child.stdin is not None
        pickle.dump(None, self.child.stdin)
        self.child.stdin.close()
        self.child.wait(10)


@pytest.fixture(scope="module")
def flushing() -> Iterator[Flushing]:
    child = Flushing()
    yield child
    child.close()


@dataclass(frozen=True)
class Run:
    """A file as it runs, and the labels of its samples."""

    this: File
    flushing: Flushing

    @cached_property
    def content(self) -> bytes:
        return self.this.model().SerializeToString()

    @cached_property
    def runs(self) -> dict[str, Any]:
        return {level: session(self.content, level) for level in LEVELS}

    @cached_property
    def x(self) -> np.ndarray:
        if self.this.samples is None:
            return np.random.default_rng(3).random((3, *self.this.shape), S)
        return np.array(self.this.samples, S).reshape(-1, *self.this.shape)

    @cached_property
    def labels(self) -> np.ndarray:
        return np.array([labels(self.runs["ENABLE_ALL"], self.x[i : i + 1])[0] for i in range(len(self.x))])

    def broken(self, i: int, eps: float, count: int = 120) -> list[str]:
        """How a point of a sample's box was run that got another label."""
        points = drawn(self.this, self.x[i], eps, count, np.random.default_rng(i))
        return [
            f"sample {i}, label {self.labels[i]}, eps {eps:g}: {how}"
            for how, got in self.runs_of(points)
            if (got != self.labels[i]).any()
        ]

    def runs_of(self, points: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        whole = self.runs["ENABLE_ALL"]
        for level, run in self.runs.items():
            yield (
                f"{level}, alone",
                np.array([labels(run, p[None])[0] for p in (points if self.this.alone else points[:3])]),
            )
            if not self.this.alone:
                yield f"{level}, a batch of {len(points)}", labels(run, points)
        if self.this.kind == "range":
            yield "subnormal numbers as zero", self.flushing(self.content, points)
        for size in BATCHES if self.this.kind == "batch" else ():
            company = np.random.default_rng(size).random((size, *points.shape[1:]), S)
            for place in (0, -1):
                company[place] = points[0]
                yield f"in a batch of {size}, place {place}", labels(whole, company)[[place]]
        if self.this.kind == "batch":
            yield "in a batch of 2048", labels(whole, np.resize(points, (2048, *points.shape[1:])))


def judged(this: File, folder: Any, flushing: Flushing) -> list[str]:
    """What of a file's certificates is false. Raises InputRejected where the file is refused."""
    run = Run(this, flushing)
    radii = certified(this, run.content, folder, run.x, run.labels)
    return [failure for i, eps in enumerate(radii) if eps for failure in run.broken(i, float(eps))]


def certified(this: File, content: bytes, folder: Any, x: np.ndarray, own_labels: np.ndarray) -> list[Fraction]:
    """By sample the largest radius of ``EPS`` at which it is certified, 0 for none."""
    path = folder / "adversarial.onnx"
    path.write_bytes(content)
    with nullcontext() if this.kind == "parity" else parity_off():
        subject = open_model(model_file.read(path), Settings(data="none"))
        require_guarantee(subject, Settings(data="none"))
    require(subject.network)
    prover = Prover(subject.network, x, own_labels, Strategy(attack=None, method="crown", kernels=KERNELS))
    rows = np.repeat(np.arange(len(x)), len(EPS))
    balls = [LinfBall(eps) for _ in x for eps in EPS]
    methods = ("ibp", "crown") if prover.has_relaxations() else ("ibp",)
    found = np.stack([prover.margins(method, balls, rows) for method in methods])
    proves = (np.isfinite(found) & (found > 0)).any(0).reshape(len(x), -1)
    return [max([eps for eps, holds in zip(EPS, row, strict=True) if holds], default=Fraction(0)) for row in proves]


def drawn(this: File, x: np.ndarray, eps: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Corners, edges and inner points of a box, and the planted ones that lie in it."""
    low, high = (np.clip(x + S(side * eps * (1 - 1e-6)), 0, 1) for side in (-1, 1))
    u = rng.random((count, *x.shape), S)
    corners = np.where(u < 0.5, low, high)
    points = np.where(
        rng.random(u.shape) < rng.choice([0, 0.5, 1], (count, *[1] * x.ndim)), corners, low + u * (high - low)
    )
    planted = np.array(this.points, S).reshape(len(this.points), *x.shape)
    inside = ((planted >= low) & (planted <= high)).reshape(len(planted), x.size).all(1)
    return np.concatenate([points.astype(S), planted[inside]])


@pytest.mark.parametrize("this", FILES, ids=lambda f: f.name)
def test_what_is_certified_of_it_is_true_or_it_is_refused_by_name(
    this: File, tmp_path: Any, flushing: Flushing
) -> None:
    if this.breaks:
        near = EPS[-1] if this.kind in ("import", "parity") else EPS[0] / 64
        assert Run(this, flushing).broken(0, float(near)), "it is no trap"
    if this.says is None:
        assert judged(this, tmp_path, flushing) == []
        return
    with pytest.raises(InputRejected) as refused:
        judged(this, tmp_path, flushing)
    judge(refused.value)
    assert this.says in str(refused.value)
    assert refused_by_inspect(tmp_path / "adversarial.onnx")


def refused_by_inspect(path: Any, **flags: str) -> str:
    """What ``pipeline inspect`` says of a file that it refuses, or that ``certify`` would."""
    try:
        return inspect(path, flags).refused or ""
    except InputRejected as error:
        return str(error)


@pytest.mark.parametrize("this", [f for f in FILES if f.says and "first axis" in f.says], ids=lambda f: f.name)
def test_samples_elsewhere_than_first_are_refused_by_inspect_in_every_arithmetic(this: File, tmp_path: Any) -> None:
    path = tmp_path / "adversarial.onnx"
    path.write_bytes(this.model().SerializeToString())
    assert str(this.says) in refused_by_inspect(path, arithmetic="real")


def test_there_are_twelve_of_each_kind() -> None:
    kinds = [f.kind for f in FILES]
    assert {kind: kinds.count(kind) >= 12 for kind in kinds} == dict.fromkeys(
        ("import", "parity", "executed", "range", "batch"), True
    )


# Faults that the judge finds.


def _open_ended(item: Item) -> Any:
    """A Clip that takes every infinite end for none."""
    x, ends = item.arg(), [item.array(i) for i in (1, 2)]
    low, high = (None if e is None or np.isinf(e) else float(e) for e in ends)
    return item.build.emit(ops.Clip(low, high), x)


def _straight(self: AbsRule, op: Any, *constants: Any) -> Any:
    """An absolute value that turns nowhere."""
    return replace(_CURVE(self, op, *constants), turns=())


_CURVE = AbsRule.curve
FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "import": (
        "Clip from plus infinity",
        lambda m: m.setitem(LOWERINGS, "Clip", _open_ended),
    ),
    "parity": ("a hat of Abs", lambda m: m.setattr(AbsRule, "curve", _straight)),
    "executed": (
        "a Clip of crossed ends, padded and pooled",
        lambda m: m.setattr(pools, "_is_nonnegative_clip", lambda *a: True),
    ),
    "range": ("the Sign of a subnormal constant", lambda m: m.setattr(subnormal, "require", lambda graph: None)),
    "batch": (
        "a product that turns negative at four",
        lambda m: m.setattr(Symbolic, "require_exact", lambda self: None),
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_wrong_rule_is_found_out(
    kind: str, tmp_path: Any, flushing: Flushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, seed = FAULTS[kind]
    seed(monkeypatch)
    assert judged(one(name), tmp_path, flushing) != []


def test_a_network_that_overflows_where_the_runtime_folds_is_measured_without_those_points(tmp_path: Any) -> None:
    def there_and_back(g: Draft) -> str:
        c = g("Conv", "x", g.const(g.normal(2, 2, 2, 2)))
        for scale in (2.0**126, 2.0**-126):
            c = g("Mul", c, g.const(np.full((2, 1, 1), scale)))
        return dense(g, c, 8)

    path = tmp_path / "adversarial.onnx"
    path.write_bytes(File("", "range", (2, 3, 3), there_and_back).model().SerializeToString())
    subject = open_model(model_file.read(path), Settings(data="none"))
    x = np.random.default_rng(0).random((4, 2, 3, 3), S) + S(10)
    parity = subject.parity_at(x, x).with_boxes(0, 0)
    assert parity.left_out >= 4
    assert np.isfinite(parity.max_abs_difference)


def test_a_file_of_one_sample_is_attacked_and_sampled_one_at_a_time(tmp_path: Any) -> None:
    """A row is added to a vector of samples, which is a matrix of all pairs where there are several."""

    def pairs(g: Draft) -> str:
        return g("Add", "x", g("Unsqueeze", g.reduced("ReduceSum", "x", [1], 0), g.ints(0)))

    this = File("", "batch", (2,), pairs, alone=True)
    path = tmp_path / "adversarial.onnx"
    path.write_bytes(this.model().SerializeToString())
    subject = open_model(model_file.read(path), Settings(data="none"))
    x, balls = np.array([[0.9, 0.1], [0.2, 0.7], [0.3, 0.6], [0.8, 0.3]], S), [LinfBall(Fraction(1, 50))]
    settings = Strategy(attack=PGD(steps=2), method="ibp", batch=1)
    *_, found = certify(subject.network, subject.predict, x, x.argmax(1), balls, settings)
    assert isinstance(found, Certification)
    assert (found.samples.verdict == Verdict.CERTIFIED).all()
    about = DeployedFile(subject.network, subject.predict, x, x.argmax(1), np.arange(4), margins=True)
    assert list(sample_boxes(about, found, settings, 0, Work()))


def test_parity_names_what_a_giant_logit_would_hide(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second net: a HardSigmoid whose slope is wrong by a hundredth, beside a logit of -1e9."""

    def wrong(item: Item) -> Any:
        x = item.build.emit(ops.Mul(), item.arg(), item.build.literal(0.202, torch.float32))
        return item.build.emit(
            ops.Clip(0.0, 1.0), item.build.emit(ops.Add(), x, item.build.literal(0.5, torch.float32))
        )

    monkeypatch.setitem(TABLE, "HardSigmoid", replace(TABLE["HardSigmoid"], reads=frozenset()))
    monkeypatch.setitem(LOWERINGS, "HardSigmoid", wrong)
    this = replace(one("a hat of Abs"), build=lambda g: spiky(g, g("HardSigmoid", column(g, 0))))
    with pytest.raises(InputRejected, match="HardSigmoid"):
        certified(this, this.model().SerializeToString(), tmp_path, np.full((1, 2), 0.5, S), np.zeros(1, int))


@pytest.mark.parametrize("size", [2.0**12, 2.0**22])
def test_a_sum_is_certified_in_every_order_of_its_operands(size: float, tmp_path: Any) -> None:
    """Two of 64 that cancel stand side by side in the file, and around all others, which are lost in the first, as it may run."""

    def summed(apart: bool) -> Callable[[Draft], str]:
        def build(g: Draft) -> str:
            small, large = [scaled(g, column(g, 0), 0.12) for _ in range(62)], scaled(g, column(g, 1), size)
            first, last = ([large], []) if apart else ([], [large])
            return signed(g, g("Sub", g("Sum", *first, *small, *last, g("Neg", large)), k(g, 3)))

        return build

    near, far = (File("", "range", (2,), summed(apart), samples=[[0.95, 0.995]]) for apart in (False, True))
    x = np.array(near.samples, S)
    (radius,) = certified(near, near.model().SerializeToString(), tmp_path, x, np.zeros(1, int))
    points = drawn(near, x[0], float(radius), 100, np.random.default_rng(0))
    assert (radius > 0) == (size < 2.0**20)
    assert radius == 0 or (labels(session(far.model().SerializeToString(), "ENABLE_ALL"), points) == 0).all()
