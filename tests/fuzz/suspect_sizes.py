"""Pieces of suspects that make numbers of sizes: of what data have sized, and of a batch that a type cannot hold."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from tests.fuzz.suspects import Draft, Shape, flat, piece

Made = tuple[str, Shape] | None


def whole(g: Draft, x: str) -> str:
    """A whole number, ``[1]`` of int64, that data decide: how many entries are above a bound, or which is the greatest."""
    bound = g.const(g.rng.random())
    kind = g.pick("Ceil", "Greater", "Round", "ArgMax")
    if kind == "ArgMax":
        return g("ArgMax", g("Reshape", x, g.ints(-1)), axis=0, keepdims=1)
    if kind == "Greater":
        above = g("Cast", g("Greater", x, bound), to=1)
    else:
        above = g(kind, g("Clip", g("Sub", x, bound), g.const(0.0), g.const(1.0)))
    return g("Cast", g.reduced("ReduceSum", g("Reshape", above, g.ints(-1)), [0]), to=7)


def filled(g: Draft, x: str, n: int) -> str:
    """A tensor whose last axis is as long as data say."""
    row, ones, bound = g("Reshape", x, g.ints(-1)), g.const(np.ones(2 * n)), g.const(g.rng.random())
    above, count = g("Greater", row, bound), whole(g, x)
    more = g("Add", count, g.ints(1))
    made = (
        lambda: g("NonZero", g("Cast", above, to=1)),
        lambda: g("Compress", row, above, **g.pick({}, {"axis": 0})),
        lambda: g("Slice", ones, g.ints(0), count, g.ints(0)),
        lambda: g("Slice", row, count, g.ints(99), g.ints(0)),
        lambda: g("Slice", ones, g.ints(0), g.ints(99), g.ints(0), more),
        lambda: g("ConstantOfShape", count),
        lambda: g("Range", g.const(0, np.int64), g("Squeeze", count, g.ints(0)), g.const(1, np.int64)),
        lambda: g("TopK", row, count, outputs=2, axis=0),
        lambda: g("Tile", g.const([1.0]), count),
        lambda: g("Expand", g.const([1.0]), more),
        lambda: g("Pad", g.const([1.0]), g("Concat", g.ints(0), count, axis=0)),
        lambda: g("Unique", g("Floor", g("Mul", row, g.const(3.0)))),
        lambda: g("OneHot", g.ints(0), more, g.const([0.0, 1.0])),
        lambda: g("Resize", g.const([[[1.0, 2.0]]]), "", "", g("Concat", g.ints(1, 1), more, axis=0)),
        lambda: g("Resize", g.const([[[1.0, 2.0]]]), "", g("Concat", g.const([1, 1]), g("Cast", more, to=1), axis=0)),
        lambda: g("Reshape", g.const(np.ones(6)), g("Concat", g.ints(-1), g("Min", more, g.ints(3)), axis=0)),
        lambda: g(
            "Transpose",
            g(
                "NonMaxSuppression",
                g.const([[[i, i, i + 1, i + 1] for i in range(n)]]),
                g("Reshape", x, g.ints(1, 1, -1)),
                g.ints(99),
                g.const(0.5),
                bound,
            ),
            perm=[1, 0],
        ),
    )
    return str(g.pick(*made)())


@piece
def sized_by_data(g: Draft, x: str, shape: Shape) -> Made:
    """The size of what data have cut, filled or repeated, or the sum of as many ones, beside the data."""
    if g.opset < 13:
        return None
    x, n = flat(g, x, shape)
    held, how = filled(g, x, n), g.pick("Shape", "Shape", "Size", "sum")
    if how == "Shape":
        size = g("Gather", g("Shape", held), g.ints(-1))
    elif how == "Size":
        size = g("Size", held)
    else:
        ones = g("Add", g("Mul", g("Cast", held, to=1), g.const(0.0)), g.const(1.0))
        size = g.reduced("ReduceSum", g("Reshape", ones, g.ints(-1)), [0])
    size = g("Reshape", g("Cast", size, to=1), g.ints(1, 1))
    if g.rng.random() < 0.5:
        return g("Sub", x, g("Mul", size, g.const(g.normal(n)))), (n,)
    return g("Concat", x, size, axis=1), (n + 1,)


def samples(g: Draft, x: str) -> str:
    """The number of samples, ``[1]`` of int64."""
    kind = g.pick("Gather", "Slice", "Shape", "Size", "sum")
    if kind == "Shape" and g.opset >= 15:
        return g("Shape", x, start=0, end=1)
    if kind == "Slice":
        return g.sliced(g("Shape", x), 0, 1, 0)
    if kind == "Size":
        return g("Reshape", g("Size", g.sliced(g("Reshape", x, g.ints(0, -1)), 0, 1, 1)), g.ints(1))
    if kind == "sum":
        return g.reduced(
            "ReduceSum",
            g("ConstantOfShape", g.sliced(g("Shape", x), 0, 1, 0), value=numpy_helper.from_array(np.ones(1, np.int64))),
            [0],
        )
    return g("Gather", g("Shape", x), g.ints(0))


TYPES = {6: (np.int32, 31), 7: (np.int64, 63), 1: (np.float32, 24), 11: (np.float64, 53), 10: (np.float16, 11)}
"""By ONNX's number of the type: from which power of two on it does not hold every whole number."""


@piece
def reckoned(g: Draft, x: str, shape: Shape) -> Made:
    """A number made of the batch size that is the same for each, but for what a type rounds or what overflows it."""
    if g.opset < 13:
        return None
    to = g.pick(*TYPES)
    dtype, bits = TYPES[to]
    most, count = g.pick(2, 3, 4, 5, 8, 64, 1024), g("Cast", samples(g, x), to=to)
    big = g.const([-(-(2**bits) // most)], dtype)

    def gap(value: str, scale: float = 1.0) -> str:
        """``x (1 + scale value)``, where the value is zero as long as the type is exact."""
        return g("Mul", x, g("Add", g("Mul", g("Cast", value, to=1), g.const(scale)), g.const(1.0)))

    if to in (6, 7):
        product = g("Mul", count, big)
        kind = g.pick("negative", "quotient", "wide", "float", "square")
        if kind == "negative":
            return g("Where", g("Less", product, g.const([0], dtype)), g("Neg", x), x), shape
        if kind == "quotient":
            return gap(g("Sub", g("Div", product, big), count), 2.0), shape
        if kind == "square":
            square = g("Mul", g("Mul", count, count), g.const([2 ** (bits - 1) // most**2 + 1], dtype))
            return g("Where", g("Less", square, g.const([0], dtype)), g("Neg", x), x), shape
        wide = 7 if kind == "wide" else 11
        exact = g("Mul", g("Cast", count, to=wide), g("Cast", big, to=wide))
        return gap(g("Sub", g("Cast", product, to=wide), exact), -(2.0**-bits)), shape
    kind = g.pick("lost", "equal", "inverse", "infinite", "root")
    if kind == "lost":
        product = g("Mul", count, big)
        return gap(g("Sub", g("Sub", g("Add", product, g.const([1], dtype)), product), g.const([1], dtype)), 2.0), shape
    if kind == "equal":
        factor = dtype(g.pick(0.1, 0.3, 1 / 3, 0.7))
        hit = g("Equal", g("Mul", count, g.const([factor], dtype)), g.const([factor * dtype(most)], dtype))
        return g("Where", hit, g("Neg", x), x), shape
    if kind == "infinite":
        hit = g(
            "Less",
            g("Mul", count, g.const([float(np.finfo(dtype).max) / (most - 0.5)], dtype)),
            g.const([np.inf], dtype),
        )
        return g("Where", hit, x, g("Neg", x)), shape
    back = (
        g("Mul", count, g("Div", g.const([1], dtype), count))
        if kind == "inverse"
        else g("Mul", g("Sqrt", count), g("Sqrt", count))
    )
    rest = g("Sub", back, g.const([1], dtype) if kind == "inverse" else count)
    return gap(rest, 2.0**bits), shape


@piece
def nd_indices(g: Draft, x: str, shape: Shape) -> Made:
    """Entries picked or replaced by constant places: behind a Transpose, which puts the samples last, or among samples."""
    if g.opset < 11 or len(shape) < 2:
        return None
    rank = len(shape) + 1
    turned = g("Transpose", x, perm=[*range(1, rank), 0])
    if g.rng.random() < 0.1:
        return g("GatherND", x, g.const([[0]], np.int64)), shape
    depth = int(g.rng.integers(1, rank))
    count = int(g.rng.integers(1, 4))
    at = np.stack([g.rng.integers(-n, n, count) for n in shape[:depth]], 1)
    places = g.const(at, np.int64)
    made, got = g("GatherND", turned, places), (count, *shape[depth:])
    if g.rng.random() < 0.5:
        made, got = g("ScatterND", turned, places, g(g.pick("Neg", "Relu"), made)), shape
    return g("Transpose", made, perm=[len(got), *range(len(got))]), got
