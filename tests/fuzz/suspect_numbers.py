"""Pieces of suspects with odd numbers: infinite and crossed ends, pads, subnormal constants, and a value that meets itself."""

from __future__ import annotations

import numpy as np

from tests.fuzz.suspects import Draft, Shape, flat, head, piece

Made = tuple[str, Shape] | None


@piece
def itself(g: Draft, x: str, shape: Shape) -> Made:
    """An operator of two inputs between a value and itself, or what an optimiser sees to be the same."""
    if len(shape) < 2 or shape[-1] != shape[-2] or g.rng.random() < 0.5:
        x, n = flat(g, x, shape)
        shape = g.pick((2, 2), (1, 2, 2), (3, 3))
        held = g.const(g.normal(n, int(np.prod(shape))))
        x = g("Reshape", g("Gemm", x, held, g.const(g.normal(int(np.prod(shape))))), g.ints(-1, *shape))
    else:
        x = g("Sub", x, g.const(g.pick(0.0, 0.5)))
    order = [*range(len(shape) - 1), len(shape), len(shape) - 1]
    other = g.pick(
        *[lambda: x] * 5,
        lambda: g("Identity", x),
        lambda: g("Transpose", x, perm=order),
        lambda: g("Neg", x),
        lambda: g("Relu", x),
    )()
    operator = g.pick(*["MatMul"] * 6, "Mul", "Sub", "Max", "Div", "Pow")
    if operator == "Max" and g.opset < 8:
        return None
    if operator == "Div":
        other = g("Add", g("Abs", other), g.const(0.5))
    if operator == "Pow":
        x, other = g("Abs", x), g.const(g.pick(2.0, 3.0, 0.5, 1.0, 0.0))
    x, n = flat(g, g(operator, x, other), shape)
    at = int(g.rng.integers(n))
    return (g.sliced(x, at, at + 1, 1), (1,)) if g.rng.random() < 0.6 else (x, (n,))


def clip(g: Draft, x: str, low: float | None, high: float | None) -> str:
    if g.opset >= 12 and g.rng.random() < 0.2:
        for operator, end in (("Max", low), ("Min", high)):
            x = g(operator, x, g.const(end)) if end is not None else x
        return x
    if g.opset < 11:
        return g("Clip", x, **{k: float(v) for k, v in (("min", low), ("max", high)) if v is not None})
    ends = ["" if v is None else g.const(v) for v in (low, high)]
    return g("Clip", x, *(ends if high is not None else ends[: low is not None]))


@piece
def open_ended(g: Draft, x: str, shape: Shape) -> Made:
    """Ends that are infinite, missing, crossed, or the last numbers of float32, brought back by finite ones, beside the value."""
    inf, last, c = np.inf, float(np.finfo(np.float32).max), x
    for _ in range(int(g.rng.integers(1, 3))):
        odd = g.pick(last, -last, 1e-40, -1e-40, 0.0, -0.0)
        low, high = (
            g.pick(*[None] * 3, *[e] * 3, float(g.normal(1)[0]), odd)
            for e in g.pick((inf, inf), (-inf, -inf), (-inf, inf))
        )
        c = clip(g, c, low, high)
    c = clip(g, c, *g.pick((-3.0, 3.0), (0.0, 2.0), (-1.0, 0.5)))
    return g("Add", g("Mul", c, g.const(g.normal(*shape))), x), shape


@piece
def padded(g: Draft, x: str, shape: Shape) -> Made:
    """Zeros around values that are negative, though a sign may be misread, before a MaxPool; beside the data."""
    if len(shape) != 3:
        x, n = flat(g, x, shape)
        x, shape = (
            g("Reshape", g("Gemm", x, g.const(g.normal(n, 4)), g.const(g.normal(4))), g.ints(-1, 1, 2, 2)),
            (1, 2, 2),
        )
    beside, n = flat(g, x, shape)
    c, h, w = shape
    below = float(-np.abs(g.normal(1)[0])) * 4
    around = [0, 0, 1, 1, 0, 0, 1, 1]

    def pad(x: str, value: float, pads: list[int]) -> str:
        if g.opset < 11:
            return g("Pad", x, pads=pads, value=value)
        return g("Pad", x, g.ints(*pads), g.const(value))

    kind = g.pick(
        *["pad" if g.opset < 11 else "crossed"] * 5,
        "slope",
        "scale",
        "shift",
        "bn",
        "Clip",
        "cubic",
        "Concat",
        "double",
    )
    if kind == "crossed":
        x = clip(g, x, float(g.pick(0.0, 1.0)), below)
    elif kind == "pad":
        x, h, w = pad(g("Relu", x), below, around), h + 2, w + 2
    elif kind == "slope":
        x = g("HardSigmoid", x, alpha=below, beta=1.0) if g.rng.random() < 0.5 else g("LeakyRelu", x, alpha=below)
    elif kind == "scale":
        x = g("Mul", g("Relu", x), g.const(g.normal(c, 1, 1)))
    elif kind == "shift":
        x = g("Add", g("Sigmoid", x) if g.rng.random() < 0.5 else g("Relu", x), g.const(below))
    elif kind == "bn":
        held = [g.const(v) for v in (g.normal(c), g.normal(c), g.normal(c), np.abs(g.normal(c)))]
        x = g("BatchNormalization", g("Relu", x), *held)
    elif kind == "Clip":
        x = clip(g, x, *g.pick((below, None), (None, below), (None, 1.0), (-0.0, below)))
    elif kind == "cubic" and g.opset >= 11:
        x, h, w = g("Resize", g("Relu", x), "", g.const([1, 1, 2, 2]), mode="cubic"), 2 * h, 2 * w
    elif kind == "Concat":
        x, c = g("Concat", *g.pick((x, g("Relu", x)), (g("Relu", x), x)), axis=1), 2 * c
    elif kind == "double":
        x, h, w = pad(g("Relu", x), g.pick(0.0, below), around), h + 2, w + 2
        x, h, w = pad(x, g.pick(0.0, below), around), h + 2, w + 2
    x = g.pick(lambda: x, lambda: g("Identity", x), lambda: g("Relu", g("Relu", x)) if kind == "slope" else x)()
    x = g("MaxPool", pad(x, g.pick(0.0, 0.0, 0.0, -1.0), around), kernel_shape=[2, 2])
    return g("Concat", g("Flatten", x), beside, axis=1), (c * (h + 1) * (w + 1) + n,)


@piece
def tiny(g: Draft, x: str, shape: Shape) -> Made:
    """What is computed from subnormal numbers, mostly constants, at the size of data: zero, where they are flushed to it."""
    if g.opset < 9:
        return None
    n, down = shape[-1], int(g.rng.integers(127, 148))
    size = 2.0**-down
    if g.rng.random() < 0.3:
        t = g("Clip", g("Sub", x, g.const(4.0)), g.const(size), g.const(2 * size)) if g.opset >= 11 else None
        if t is None:
            return None
    else:
        t = g.const(np.where(g.rng.random(n) < 0.3, 0, size))
    t = g.pick(
        lambda: t,
        lambda: g("Neg", t),
        lambda: g("Mul", g("Mul", g.const(np.full(n, 2.0**-70)), g.const(2.0 ** (70 - down))), g.const(1.0)),
    )()
    one, zero = g.const(1.0), g.const(0.0)
    made = (
        lambda: g("Mul", g("Mul", t, g.const(2.0**100)), g.const(2.0 ** (down - 100))),
        lambda: g("Div", g("Div", t, g.const(2.0**-100)), g.const(2.0 ** (100 - down))),
        lambda: g("Div", t, g.const(size)),
        lambda: g(
            "Mul", g("Div", g.const(2.0**-30), g("Add", g("Abs", t), g.const(size))), g.const(2.0 ** (29 - down))
        ),
        lambda: g("Sign", t),
        lambda: g("Ceil", g("Abs", t)),
        lambda: g("Cast", g("Cast", t, to=9), to=1),
        lambda: g("Where", g(g.pick("Less", "Greater", "Equal"), t, g.const(g.pick(0.0, size / 2))), one, zero),
        lambda: g("Mul", g("Sqrt", g("Abs", t)), g.const(2.0 ** (down / 2))),
        lambda: g("Mul", g("Pow", g("Abs", t), g.const(0.5)), g.const(2.0 ** (down / 2))),
        lambda: g("Mul", g("Log", g("Add", g("Abs", t), g.const(size))), g.const(0.01)),
        lambda: g("Mul", g("Mul", g("Exp", g.const(np.full(n, -90.0))), g.const(2.0**100)), g.const(2.0**30)),
        lambda: g("Softmax", g("Mul", t, g.const(2.0**125)), axis=-1),
        lambda: g("Mul", g("Mul", g.reduced("ReduceMax", t, [-1]), g.const(2.0**100)), g.const(2.0 ** (down - 100))),
        lambda: g("Mul", g("MatMul", t, g.const(g.normal(n, n) * np.float32(2.0**100))), g.const(2.0 ** (down - 100))),
    )
    c = g.pick(*made)()
    return (
        g("Add", x, g("Mul", c, g.const(g.normal(n))))
        if g.rng.random() < 0.6
        else g("Mul", x, g("Add", c, g.const(g.pick(0.0, 1.0))))
    ), shape


@piece
def tiny_parts(g: Draft, x: str, shape: Shape) -> Made:
    """A product of two parts of one operator, of which one is subnormal and the other huge."""
    x, n = flat(g, x, shape)
    down = int(g.rng.integers(120, 148))
    low, high, k = 2.0**-down, 2.0 ** min(down, 126), int(g.rng.integers(2, 5))
    w, b = g.normal(n, k), g.normal(k)
    kind = g.pick("beta", "bias", "alpha", "weights", "bn")
    if kind == "bn":
        parts = [g.const(v) for v in (g.normal(n) * low, g.normal(n), g.normal(n), np.abs(g.normal(n)) * 2.0**-120)]
        return g("Mul", g("BatchNormalization", x, *parts, epsilon=low), g.const(high * 2.0**-60)), (n,)
    if kind in ("beta", "bias"):
        factor, other = (low, high) if kind == "beta" else (high, low)
        w = w * np.float32(g.pick(1.0, 2.0**-4, 2.0**-20))
        return g("Gemm", x, g.const(w), g.const(b * np.float32(other)), beta=factor), (k,)
    factor, other = (low, high) if kind == "alpha" else (high, low)
    return g("Gemm", x, g.const(w * np.float32(other)), g.const(b), alpha=factor), (k,)


@head
def chosen(g: Draft, x: str, shape: Shape) -> Made:
    """Logits of which one is a subnormal constant, chosen among zeros."""
    x, n = flat(g, x, shape)
    x, n = (x, n) if n > 1 else (g("Concat", x, x, axis=1), 2)
    t = float(2.0 ** -g.rng.integers(127, 149))
    dead = g("Relu", g("Sub", x, g.const(50.0)))
    row = g.const(np.where(np.arange(n) == g.rng.integers(n), t, 0)[None])
    padded = g("Unsqueeze", g("Pad", dead, g.ints(0, 0, 0, 1), g.const(t)), g.ints(1)) if g.opset >= 13 else ""
    both = g("Concat", *(g("Unsqueeze", v, g.ints(1)) for v in (dead, g("Max", dead, row))), axis=1) if padded else ""
    made = (
        *[lambda: g("Flatten", g("MaxPool", padded, kernel_shape=[2]))] * 3,
        lambda: g.reduced("ReduceMax", both, [1], 0),
        lambda: g("Max", dead, row),
        lambda: g("Add", dead, row),
        lambda: g("Sub", row, dead),
        lambda: g("Where", g.const(np.arange(n) == 0, bool), dead, g("Add", dead, g.const(t))),
        lambda: g("Mul", g("Max", dead, row), g.const(2.0**100)),
        lambda: g("Concat", dead, g("Clip", g.sliced(dead, 0, 1, 1), g.const(t), g.const(1.0)), axis=1),
        lambda: g("Pad", dead, g.ints(0, 0, 0, 1), g.const(t)),
    )
    if not padded:
        return g("Concat", dead, g("Add", dead, g.const(t)), axis=1), (2 * n,)
    which = int(g.rng.integers(len(made)))
    return made[which](), (n + (which > len(made) - 3),)
