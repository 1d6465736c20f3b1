"""Small classifiers built to be misread: what an import, an optimiser of a runtime or a batch may get wrong, one piece each.

A suspect is a list of pieces and a seed. Pieces read a value of one sample's shape and give another; a head ends them in
logits. Dropping pieces shrinks a suspect, and the same list and seed make the same file again.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.feature_box import FeatureRadii

Shape = tuple[int, ...]
Piece = Callable[["Draft", str, Shape], "tuple[str, Shape] | None"]
PIECES: dict[str, Piece] = {}
HEADS: dict[str, Piece] = {}
BARE: dict[str, Piece] = {}
"""Pieces of files without a batch axis."""
SHAPES = ((2,), (3,), (4,), (6,), (1, 4, 4), (2, 3, 3), (1, 2, 3), (2, 2), (1, 5, 4))
BARE_SHAPES = ((3,), (4,), (3, 2), (2, 3), (2, 3, 2))


@dataclass
class Draft:
    """A file under construction; ``opset`` decides in which form operators are written, ``alone`` whether its batch is one."""

    rng: np.random.Generator
    opset: int
    alone: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def const(self, value: Any, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def __call__(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32)

    def power(self) -> np.float32:
        """A scale: mostly ordinary, at times at the ends of float32 or beyond its normal numbers."""
        exponent = self.pick(0, 1, -3, 10, -20, 60, -60, 100, -100, 120, -120, -130, -140)
        return np.float32(2.0**exponent)

    def reduced(self, operator: str, x: str, axes: Sequence[int], keepdims: int = 1) -> str:
        as_input = 13 if operator == "ReduceSum" else 18
        if self.opset >= as_input:
            return self(operator, x, self.ints(*axes), keepdims=keepdims)
        return self(operator, x, axes=list(axes), keepdims=keepdims)

    def sliced(self, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
        if self.opset < 10:
            return self("Slice", x, starts=[start], ends=[end], axes=[axis])
        return self("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

    def softmax(self, x: str, axis: int, log: bool = False) -> str:
        return self("LogSoftmax" if log else "Softmax", x, axis=axis)


def piece(function: Piece) -> Piece:
    PIECES[function.__name__] = function
    return function


def head(function: Piece) -> Piece:
    HEADS[function.__name__] = function
    return function


def bare(function: Piece) -> Piece:
    BARE[function.__name__] = function
    return function


def flat(g: Draft, x: str, shape: Shape) -> tuple[str, int]:
    return (g("Flatten", x), int(np.prod(shape))) if len(shape) > 1 else (x, shape[0])


@dataclass(frozen=True)
class Suspect:
    """How a file is made: the size of its input, its pieces, its head, and the seed of everything else."""

    shape: Shape
    pieces: tuple[str, ...]
    head: str
    opset: int
    seed: int
    alone: bool = False
    """Whether the file fixes a batch of one."""
    bare: bool = False
    """Whether it has no batch axis at all; its pieces are of ``BARE``."""
    beside: Shape = ()
    """The shape of a second input, which joins the first in front of the head; empty without one."""
    whole: bool = False
    """Whether the second input is of whole numbers from 0 to 2, which come with each sample."""
    by_feature: bool = False
    """Whether its features have radii of their own and no valid range, as tabular data do."""

    @property
    def inputs(self) -> dict[str, Shape]:
        """The shapes of one sample of its inputs, in the file's order."""
        both = {"x": self.shape, "beside": self.beside} if self.beside else {"x": self.shape}
        return dict(sorted(both.items(), reverse=bool(self.seed % 2)))

    @property
    def perturbed(self) -> str:
        """The input that may be perturbed."""
        return "beside" if self.beside and not self.whole and self.seed % 3 == 0 else "x"

    @property
    def row(self) -> dict[str, Shape]:
        """The same, in the order of a row of a sample: whole numbers come last."""
        return {"x": self.shape, "beside": self.beside} if self.whole else self.inputs

    def samples(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Samples of float32, of several inputs a row each."""
        features = self.features()
        x = rng.random((count, *(self.shape if features is None else features.radius.shape)), np.float32)
        x = np.float32(4) * x - np.float32(2) if self.by_feature else x
        if self.whole:
            x[:, math.prod(self.shape) :] = rng.integers(0, 3, (count, math.prod(self.beside)))
        return x

    def features(self) -> FeatureRadii | None:
        """Radii and range of each entry of a sample, of several inputs one behind the other; None for pixels, all alike."""
        if not (self.beside or self.by_feature):
            return None
        rng = np.random.default_rng([self.seed, 7])
        parts = [
            np.where(rng.random(math.prod(s)) < 0.7, rng.integers(1, 9, math.prod(s)) / 4, 0.0)
            if self.by_feature
            else np.ones(math.prod(s))
            for s in self.row.values()
        ]
        radius = np.concatenate([v * (n == self.perturbed) for v, n in zip(parts, self.row, strict=True)])
        radius = radius if self.beside else radius.reshape(self.shape)
        low, high = (np.full(radius.shape, end) for end in ((-np.inf, np.inf) if self.by_feature else (0.0, 1.0)))
        if self.whole:
            high[math.prod(self.shape) :] = np.inf
        return FeatureRadii(radius, low, high)

    def build(self) -> onnx.ModelProto:
        """The file. A piece that does not fit is left out."""
        g, x, shape = Draft(np.random.default_rng(self.seed), self.opset, self.alone), "x", self.shape
        samples = [] if self.bare else [1] if self.alone else ["N"]
        for name in self.pieces:
            g.rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            made = (BARE if self.bare else PIECES)[name](g, x, shape)
            x, shape = made if made is not None else (x, shape)
        g.rng = np.random.default_rng([self.seed, 99])
        if self.beside:
            beside, size = categories(g, self.beside) if self.whole else flat(g, "beside", self.beside)
            x, shape = joined(g, *flat(g, x, shape), beside, size)
        made = bare_head(g, x, shape) if self.bare else HEADS[self.head](g, x, shape)
        assert made is not None
        g.nodes.append(helper.make_node("Identity", [made[0]], ["y"], name="last"))
        used = {v for n in g.nodes for v in n.input}
        kinds = {"beside": (TensorProto.INT64, TensorProto.INT32)[self.seed % 2]} if self.whole else {}
        inputs = [(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in self.inputs.items()]
        return helper.make_model(
            helper.make_graph(
                g.nodes,
                "suspect",
                [helper.make_tensor_value_info(n, kind, [*samples, *s]) for n, kind, s in inputs],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*samples, *made[1]])],
                [numpy_helper.from_array(a, n) for n, a in g.constants.items() if n in used],
            ),
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=8 if self.opset < 21 else 10,
        )


def joined(g: Draft, x: str, n: int, b: str, m: int) -> tuple[str, Shape]:
    """A second input joins the first: beside it, added to it, or as its factor."""
    if (how := g.pick("Concat", "Add", "Mul")) == "Concat":
        return g("Concat", *g.pick((x, b), (b, x)), axis=1), (n + m,)
    b = g("Gemm", b, g.const(g.normal(m, n)), g.const(g.normal(n)))
    return g(how, *g.pick((x, b), (b, x))), (n,)


def categories(g: Draft, shape: Shape) -> tuple[str, int]:
    """Numbers of the second input of whole numbers 0, 1, 2: cast, looked up, compared, or one-hot vectors."""
    (b, m), how = flat(g, "beside", shape), g.pick("cast", "table", "offsets", "hot", "equal")
    if how == "cast" or (how == "equal" and g.opset < 9):
        return g("Cast", b, to=TensorProto.FLOAT), m
    if how == "equal":
        same = g("Equal", g("Cast", b, to=TensorProto.INT64), g.ints(*g.rng.integers(0, 3, m).tolist()))
        return g("Where", same, *(g.const(g.normal(m)) for _ in range(2))), m
    if how == "hot" and g.opset >= 9:
        axis = int(g.pick(-1, 1, 2))
        made = g("OneHot", b, g.ints(int(g.pick(2, 3, 4))), g.const(g.normal(2)), axis=axis)
        depth = int(g.constants[g.nodes[-1].input[1]][0])
        return g("Flatten", made), m * depth
    if how == "offsets" and g.opset >= 7:
        b = g("Sub", g("Cast", b, to=TensorProto.INT64), g.ints(*g.rng.integers(-3, 1, m).tolist()))
    return g("Flatten", g("Gather", g.const(g.normal(6, 2)), b, axis=0)), 2 * m


def bare_head(g: Draft, x: str, shape: Shape) -> tuple[str, Shape]:
    """Three logits of one sample."""
    n = int(np.prod(shape))
    x = g("Reshape", x, g.ints(g.pick(-1, n))) if len(shape) != 1 else x
    return g("Add", g("MatMul", x, g.const(g.normal(n, 3))), g.const(g.normal(3))), (3,)


def drawn(seed: int, among: Sequence[str] = ()) -> Suspect:
    """A suspect of one to three pieces, all of them named in ``among`` if there is one."""
    rng = np.random.default_rng(seed)
    names, heads = (sorted(set(held) & set(among)) if among else sorted(held) for held in (PIECES, HEADS))
    pieces = tuple(names[int(rng.integers(len(names)))] for _ in range(int(rng.integers(1, 4))) if names)
    plain = not heads or (names and rng.random() < 0.6)
    which = "plain" if plain else heads[int(rng.integers(len(heads)))]
    shape, opset = SHAPES[int(rng.integers(len(SHAPES)))], int(rng.integers(7, 24))
    found = Suspect(shape, pieces, which, opset, seed, alone=bool(rng.random() < 0.2))
    if among and not set(among) & set(BARE):
        return found
    kind, found = rng.random(), replace(found, by_feature=bool(rng.random() < 0.15))
    if among or kind < 0.15:
        names = sorted(set(BARE) & set(among)) if among else sorted(BARE)
        pieces = tuple(names[int(rng.integers(len(names)))] for _ in range(int(rng.integers(1, 5))))
        shape = BARE_SHAPES[int(rng.integers(len(BARE_SHAPES)))]
        return replace(found, shape=shape, pieces=pieces, head="plain", alone=True, bare=True)
    if kind < 0.3 and not found.alone:
        return replace(found, beside=((2,), (3,), (2, 2))[int(rng.integers(3))], whole=bool(rng.random() < 0.5))
    return found
