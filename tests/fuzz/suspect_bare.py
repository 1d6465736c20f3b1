"""Pieces of files without a batch axis: axes are those of one sample, and values meet others of fewer axes."""

from __future__ import annotations

import numpy as np

from tests.fuzz.suspects import Draft, Shape, bare

Made = tuple[str, Shape] | None


def _broadcast(*shapes: Shape) -> Shape:
    return tuple(int(d) for d in np.broadcast_shapes(*shapes))


@bare
def bare_product(g: Draft, x: str, shape: Shape) -> Made:
    """MatMul by a constant of any rank on either side, or of the value with itself."""
    kind, n = g.pick("right", "right", "deep", "vector", "left", "itself"), shape[-1]
    k = int(g.rng.integers(2, 4))
    if kind == "right":
        return g("Relu", g("MatMul", x, g.const(g.normal(n, k)))), (*shape[:-1], k)
    if kind == "deep":
        lead = (int(g.rng.integers(1, 3)),)
        weight = g.normal(*lead, n, k)
        if len(shape) == 1:
            return g("MatMul", x, g.const(weight)), (*lead, k)
        if len(shape) == 3 and lead[0] not in (1, shape[0]):
            return None
        return g("MatMul", x, g.const(weight)), (*_broadcast(shape[:-2], lead), shape[-2], k)
    if kind == "vector":
        return (g("MatMul", x, g.const(g.normal(n))), shape[:-1]) if len(shape) > 1 else None
    if kind == "left":
        rows = shape[-2] if len(shape) > 1 else n
        if len(shape) == 1:
            return g("MatMul", g.const(g.normal(k, rows)), x), (k,)
        return g("MatMul", g.const(g.normal(k, rows)), x), (*shape[:-2], k, shape[-1])
    if len(shape) < 2:
        return None
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    return g("MatMul", x, g("Transpose", x, perm=order)), (*shape[:-1], shape[-2])


@bare
def bare_gemm(g: Draft, x: str, shape: Shape) -> Made:
    """Gemm of a matrix, transposed or not, with a bias that stands for rows, columns or all."""
    if len(shape) != 2:
        return None
    turned, k = int(g.rng.integers(2)), int(g.rng.integers(2, 4))
    rows, n = shape[::-1] if turned else shape
    bias = g.const(g.pick(g.normal(k), g.normal(rows, 1), g.normal(1, k), g.normal(1)))
    flip = int(g.rng.integers(2))
    weight = g.const(g.normal(k, n) if flip else g.normal(n, k))
    factors = {"alpha": float(g.pick(1.0, 0.5)), "beta": float(g.pick(1.0, -1.0))}
    return g("Gemm", x, weight, bias, transA=turned, transB=flip, **factors), (rows, k)


@bare
def bare_constant(g: Draft, x: str, shape: Shape) -> Made:
    """A constant of fewer or of more axes than the value."""
    other = g.pick(shape, shape[1:], shape[-1:], (1,), (2, *shape), (2, *(1 for _ in shape)), tuple(1 for _ in shape))
    operands = [x, g.const(g.normal(*other))]
    if g.rng.random() < 0.5:
        operands.reverse()
    return g(g.pick("Add", "Sub", "Mul", "Max"), *operands), _broadcast(shape, other)


@bare
def bare_reduction(g: Draft, x: str, shape: Shape) -> Made:
    """Some axes, all of them, or none; from the front or the end; as a factor of the value itself."""
    operator = g.pick("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1")
    as_input = g.opset >= (13 if operator == "ReduceSum" else 18)
    axes = g.pick((0,), (-1,), (-len(shape),), tuple(range(len(shape))), None, ())
    keep = int(g.rng.integers(2))
    noop = int(g.rng.integers(2)) if as_input and not axes else 0
    if axes is None or (not axes and not as_input):
        made = g(operator, x, keepdims=keep, **({"noop_with_empty_axes": noop} if noop else {}))
    elif as_input:
        made = g(operator, x, g.ints(*axes), keepdims=keep, **({"noop_with_empty_axes": noop} if noop else {}))
    else:
        made = g(operator, x, axes=list(axes), keepdims=keep)
    if noop:
        return made, shape
    gone = {a % len(shape) for a in axes} if axes else set(range(len(shape)))
    got = tuple(1 if i in gone else d for i, d in enumerate(shape) if keep or i not in gone)
    try:
        return g(g.pick("Add", "Sub"), x, made), _broadcast(shape, got)
    except ValueError:
        return (made, got) if got else None


@bare
def bare_move(g: Draft, x: str, shape: Shape) -> Made:
    """Transpose, Reshape, Flatten, Unsqueeze, Squeeze, Expand."""
    kind, rank = g.pick("transpose", "reversed", "reshape", "flatten", "unsqueeze", "squeeze", "expand"), len(shape)
    if kind == "transpose":
        order = [int(i) for i in g.rng.permutation(rank)]
        return g("Transpose", x, perm=order), tuple(shape[i] for i in order)
    if kind == "reversed":
        return g("Transpose", x), shape[::-1]
    if kind == "reshape":
        got = g.pick(shape[::-1], (1, *shape), (int(np.prod(shape)),), (shape[0], int(np.prod(shape[1:]))))
        return g("Reshape", x, g.ints(*got)), got
    if kind == "flatten":
        axis = int(g.rng.integers(rank + 1))
        return g("Flatten", x, axis=axis), (int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))
    if kind == "expand":
        return g("Expand", x, g.ints(2, *shape)), (2, *shape)
    if kind == "unsqueeze":
        axis = int(g.rng.integers(-rank - 1, rank + 1))
        got = list(shape)
        got.insert(axis % (rank + 1), 1)
        made = g("Unsqueeze", x, g.ints(axis)) if g.opset >= 13 else None
        return (made, tuple(got)) if made else None
    if 1 not in shape:
        return None
    axis = shape.index(1) - (rank if g.rng.random() < 0.5 else 0)
    made = g("Squeeze", x, g.ints(axis)) if g.opset >= 13 else g("Squeeze", x, axes=[shape.index(1)])
    return made, tuple(d for i, d in enumerate(shape) if i != shape.index(1))


@bare
def bare_parts(g: Draft, x: str, shape: Shape) -> Made:
    """Slice, Split, Gather and Concat along an axis of the sample, counted from either end."""
    axis = int(g.rng.integers(-len(shape), len(shape)))
    place = axis % len(shape)
    n = shape[place]
    kind = g.pick("slice", "gather", "gather one", "split", "concat")
    if kind == "slice" and n > 1:
        return g.sliced(x, 1, n, axis), (*shape[:place], n - 1, *shape[place + 1 :])
    if kind == "gather":
        return g("Gather", x, g.ints(n - 1, 0, 0), axis=axis), (*shape[:place], 3, *shape[place + 1 :])
    if kind == "gather one" and len(shape) > 1:
        return g("Gather", x, g.const(n - 1, np.int64), axis=axis), (*shape[:place], *shape[place + 1 :])
    if kind == "split" and n % 2 == 0 and 11 <= g.opset < 18:
        first = g("Split", x, outputs=2, axis=axis)
        return g("Sub", first, first.removesuffix("0") + "1"), (*shape[:place], n // 2, *shape[place + 1 :])
    if kind == "concat":
        parts = g.pick([x, x], [x, g.const(g.normal(*shape))], [g.const(g.normal(*shape)), x])
        return g("Concat", *parts, axis=axis), (*shape[:place], 2 * n, *shape[place + 1 :])
    return None


@bare
def bare_softmax(g: Draft, x: str, shape: Shape) -> Made:
    """Along an axis of the sample, or without one, which older opsets read otherwise."""
    axis = g.pick(None, 0, -1, -len(shape), len(shape) - 1)
    return g(g.pick("Softmax", "LogSoftmax"), x, **({} if axis is None else {"axis": axis})), shape


@bare
def bare_function(g: Draft, x: str, shape: Shape) -> Made:
    kind = g.pick("Relu", "Sigmoid", "PRelu", "Clip", "Where")
    if kind == "PRelu":
        return g("PRelu", x, g.const(np.abs(g.normal(*g.pick(shape[-1:], (1,), shape))))), shape
    if kind == "Clip":
        ends = (np.float32(-0.5), np.float32(0.5))
        return g("Clip", x, min=-0.5, max=0.5) if g.opset < 11 else g("Clip", x, *map(g.const, ends)), shape
    if kind == "Where":
        return (
            (
                g("Where", g.const(g.rng.random(shape) < 0.5, np.bool_), x, g.const(g.normal(*shape[-1:]))),
                shape,
            )
            if g.opset >= 9
            else None
        )
    return g(kind, x), shape
