"""The pieces of suspects: each is a family of forms that some import, optimiser or batch has got wrong, or might."""

from __future__ import annotations

import numpy as np

from tests.fuzz.suspects import Draft, Shape, flat, head, piece

Made = tuple[str, Shape] | None


@piece
def dense(g: Draft, x: str, shape: Shape) -> Made:
    """A layer and a ReLU."""
    x, n = flat(g, x, shape)
    k = int(g.rng.integers(2, 6))
    return g("Relu", g("Gemm", x, g.const(g.normal(n, k)), g.const(g.normal(k)))), (k,)


@piece
def scaled_product(g: Draft, x: str, shape: Shape) -> Made:
    """Mul or Div before and after a MatMul, which a runtime may fold into one factor behind the products."""
    x, n = flat(g, x, shape)
    k, scale = int(g.rng.integers(2, 5)), g.power()
    before, after = g.pick("Mul", "Div", None), g.pick("Mul", "Div", None)
    if before:
        x = g(before, x, g.const(g.pick(scale, [scale])))
    w = g.normal(n, k) * np.float32(g.pick(1.0, 1.0 / float(scale), float(scale), 2.0**-100))
    x = g("MatMul", x, g.const(np.nan_to_num(w, posinf=1e30, neginf=-1e30)))
    if after:
        x = g(after, x, g.const(g.pick(scale, np.float32(1.0) / scale if scale > 2.0**-120 else scale)))
    return x, (k,)


@piece
def raised_product(g: Draft, x: str, shape: Shape) -> Made:
    """A scale before a MatMul without which its products underflow, as they do where a runtime moves it behind them."""
    x, n = flat(g, x, shape)
    k, up, down = int(g.rng.integers(2, 5)), int(g.rng.integers(100, 125)), int(g.rng.integers(10, 45))
    x = g("Relu", g("Mul", x, g.const(np.float32(2.0**-down))))
    x = (
        g("Mul", x, g.const(np.float32(2.0**up)))
        if g.rng.random() < 0.7
        else g("Div", x, g.const(np.float32(2.0**-up)))
    )
    w = (g.normal(n, k).astype(np.float64) * 2.0**-up).astype(np.float32)
    return g("Relu", g("Mul", g("MatMul", x, g.const(w)), g.const(np.float32(2.0**down)))), (k,)


@piece
def scaled_gemm(g: Draft, x: str, shape: Shape) -> Made:
    x, n = flat(g, x, shape)
    k, scale = int(g.rng.integers(2, 5)), g.power()
    w = np.clip(g.normal(k, n) * g.pick(1.0, 1.0 / float(scale)), -1e30, 1e30)
    bias = g.const(g.normal(k) * g.pick(1.0, float(g.power())))
    return g("Gemm", x, g.const(w), bias, alpha=float(scale), beta=float(g.pick(1.0, 0.5, -2.0)), transB=1), (k,)


@piece
def tiny_and_back(g: Draft, x: str, shape: Shape) -> Made:
    """Down to the ends of float32 and back, where results are flushed to zero."""
    scale = g.power()
    inverse = np.float32(min(1.0 / float(scale), 2.0**127))
    x = g("Mul", x, g.const(scale)) if g.rng.random() < 0.5 else g("Div", x, g.const(inverse))
    if g.rng.random() < 0.5:
        x = g("Relu", x)
    return g("Mul", x, g.const(inverse)), shape


@piece
def convolution(g: Draft, x: str, shape: Shape) -> Made:
    """Conv, with a scale, a BatchNorm or an Add that may be folded into it."""
    if len(shape) != 3:
        return None
    c, h, w = shape
    k, scale = int(g.rng.integers(1, 3)), g.power()
    if g.rng.random() < 0.4:
        x = g("Mul", x, g.const(scale))
    weight = np.clip(g.normal(k, c, 2, 2) * g.pick(1.0, 1.0 / float(scale)), -1e30, 1e30)
    x = g("Conv", x, g.const(weight), g.const(g.normal(k)))
    shape = (k, h - 1, w - 1)
    after = g.pick("bn", "Mul", "Add", "Relu", None)
    if after == "bn":
        return bn(g, x, shape)
    if after in ("Mul", "Add"):
        x = g(after, x, g.const(g.normal(k, 1, 1) * g.pick(1.0, float(g.power()))))
    elif after:
        x = g("Relu", x)
    return x, shape


@piece
def bn(g: Draft, x: str, shape: Shape) -> Made:
    c, var = shape[0], np.abs(g.normal(shape[0])) * np.float32(g.pick(1.0, 1e-12, 1e12)) + np.float32(1e-8)
    names = [g.const(v) for v in (g.normal(c), g.normal(c), g.normal(c), var)]
    return g("BatchNormalization", x, *names, epsilon=float(g.pick(1e-5, 1e-3, 1e-12))), shape


@piece
def pad_and_pool(g: Draft, x: str, shape: Shape) -> Made:
    """Pad before a MaxPool, an AveragePool or a Conv: padding that the pool itself would do otherwise."""
    if len(shape) != 3:
        return None
    c, h, w = shape
    x = g("Sub", x, g.const(g.pick(0.0, 1.0, 2.0)))
    value, pads = (
        float(g.pick(0.0, 0.0, 0.0, -1.0)),
        [0, 0, 1, *g.rng.integers(0, 2, 1), 0, 0, *g.rng.integers(0, 2, 2)],
    )
    pads = [int(p) for p in pads]
    mode = g.pick("constant", "constant", "reflect", "edge")
    if g.opset < 11:
        x = g("Pad", x, mode=mode, pads=pads, value=value)
    else:
        x = g("Pad", x, g.ints(*pads), g.const(np.float32(value)), mode=mode)
    h, w = h + pads[2] + pads[6] - 1, w + pads[3] + pads[7] - 1
    kind = g.pick("MaxPool", "MaxPool", "MaxPool", "AveragePool", "Conv")
    if kind == "Conv":
        return g("Conv", x, g.const(g.normal(1, c, 2, 2))), (1, h, w)
    return g(kind, x, kernel_shape=[2, 2]), (c, h, w)


@piece
def pooled(g: Draft, x: str, shape: Shape) -> Made:
    if len(shape) != 3 or g.opset < 11:
        return None
    c = shape[0]
    ceil = {"ceil_mode": 1} if g.opset >= 10 and g.rng.random() < 0.5 else {}
    counted = {"count_include_pad": int(g.rng.integers(2))}
    kind = g.pick("MaxPool", "AveragePool", "GlobalAveragePool")
    if kind == "GlobalAveragePool":
        return g(kind, x), (c, 1, 1)
    more = counted if kind == "AveragePool" else {}
    x = g(
        kind,
        x,
        kernel_shape=[2, 2],
        strides=[2, 2],
        pads=[1, 0, 0, 1] if g.rng.random() < 0.5 else [0] * 4,
        **ceil,
        **more,
    )
    return g("GlobalMaxPool", x), (c, 1, 1)


@piece
def resized(g: Draft, x: str, shape: Shape) -> Made:
    if g.opset < 11:
        return None
    mode = g.pick("nearest", "nearest", "linear", "cubic")
    coordinates = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attributes = {"mode": mode, "coordinate_transformation_mode": g.pick(*coordinates)}
    if mode == "nearest":
        attributes["nearest_mode"] = g.pick("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    scale = float(g.pick(2.0, 1.5, 0.5, 3.0))
    scales = [*[1.0] * (len(shape) - 2), scale, scale][-len(shape) :]
    made = tuple(int(n * s) for n, s in zip(shape, scales, strict=True))
    return (g("Resize", x, "", g.const([1, *scales]), **attributes), made) if all(made) else None


@piece
def normalised(g: Draft, x: str, shape: Shape) -> Made:
    """LayerNormalization written out, near a large mean, as a runtime fuses it."""
    if g.opset < 12:
        return None
    x = g("Add", x, g.const(g.pick(0.0, 10.0, 300.0, 3e4)))
    gap = g("Sub", x, g.reduced("ReduceMean", x, [-1]))
    variance = g.reduced("ReduceMean", g("Pow", gap, g.const(2.0)), [-1])
    x = g("Div", gap, g("Sqrt", g("Add", variance, g.const(g.pick(1e-5, 1e-3)))))
    return g("Add", g("Mul", x, g.const(g.normal(shape[-1]))), g.const(g.normal(shape[-1]))), shape


@piece
def gated(g: Draft, x: str, shape: Shape) -> Made:
    """SiLU, GELU and their like, written out."""
    kind = g.pick("silu", "gelu", "quick")
    if kind == "gelu":
        half = g("Add", g("Erf", g("Div", x, g.const(np.sqrt(2.0)))), g.const(1.0)) if g.opset >= 9 else None
        return (g("Mul", g("Mul", x, half), g.const(0.5)), shape) if half else None
    inside = x if kind == "silu" else g("Mul", x, g.const(1.702))
    return g("Mul", x, g("Sigmoid", inside)), shape


@piece
def clipped(g: Draft, x: str, shape: Shape) -> Made:
    """Chains of Clip and Relu, which a runtime makes one."""
    for _ in range(int(g.rng.integers(1, 4))):
        low, high = sorted(g.normal(2) * g.pick(1.0, 0.1))
        if g.rng.random() < 0.4:
            x = g("Relu", x)
        elif g.opset < 11:
            x = g("Clip", x, min=float(low), max=float(high))
        else:
            x = g(
                "Clip", x, g.const(low) if g.rng.random() < 0.7 else "", g.const(high) if g.rng.random() < 0.7 else ""
            )
    return x, shape


@piece
def spike(g: Draft, x: str, shape: Shape) -> Made:
    """A narrow triangle of one input, ``relu(s - w) - 2 relu(s) + relu(s + w)``, added to all entries."""
    x, n = flat(g, x, shape)
    width, at = float(g.pick(1e-2, 1e-4, 1e-6)), float(g.rng.random())
    s = g("Sub", g.sliced(x, 0, 1, 1), g.const(at))
    ends = [g("Relu", g(op, s, g.const(width))) for op in ("Sub", "Add")]
    bump = g("Sub", g("Add", *ends), g("Mul", g("Relu", s), g.const(2.0)))
    return g("Add", x, g("Mul", bump, g.const(g.normal(n) * np.float32(3.0 / width)))), (n,)


@piece
def moved(g: Draft, x: str, shape: Shape) -> Made:
    """Transposes and shapes back and forth."""
    if len(shape) < 2:
        a = g("Unsqueeze", x, g.ints(2)) if g.opset >= 13 else g("Unsqueeze", x, axes=[2])
        return g("Flatten", g("Transpose", a, perm=[0, 2, 1])), shape
    order = [0, *(1 + g.rng.permutation(len(shape)))]
    x = g("Transpose", x, perm=[int(p) for p in order])
    return x, tuple(shape[p - 1] for p in order[1:])


@piece
def quantised(g: Draft, x: str, shape: Shape) -> Made:
    if g.opset < 10:
        return None
    scale, zero = g.const(g.pick(0.1, 0.01)), g.const(g.pick(0, 3, 128), np.uint8)
    return g("DequantizeLinear", g("QuantizeLinear", x, scale, zero), scale, zero), shape


@piece
def company(g: Draft, x: str, shape: Shape) -> Made:
    """Samples of a batch that influence each other, by an axis named from either end."""
    rank = 1 + len(shape)
    axis = g.pick(0, -rank)
    kind = g.pick("reverse", "softmax", "mean", "first", "max", "cumsum", "fold")
    if kind == "reverse" and g.opset >= 10:
        return g("Add", x, g.sliced(x, -1, -(2**31), axis, -1)), shape
    if kind == "softmax" and g.opset >= 13:
        return g.softmax(x, axis), shape
    if kind in ("mean", "max"):
        return g("Sub", x, g.reduced("Reduce" + kind.capitalize(), x, [axis])), shape
    if kind == "first" and g.opset >= 11:
        return g("Sub", x, g("Gather", x, g.ints(0), axis=axis)), shape
    if kind == "cumsum" and g.opset >= 11:
        return g("CumSum", x, g.const(axis, np.int64)), shape
    if kind == "fold" and len(shape) == 1 and g.opset >= 13:
        wide = g("Unsqueeze", x, g.ints(0))
        mixed = g("AveragePool", wide, kernel_shape=[3], pads=[1, 1])
        return g("Squeeze", mixed, g.ints(0)), shape
    return None


@piece
def counted(g: Draft, x: str, shape: Shape) -> Made:
    """A value computed from the number of samples."""
    if g.opset < 13:
        return None
    count = g("Cast", g("Gather", g("Shape", x), g.ints(0)), to=1)
    gap = g("Sub", count, g.const(float(g.pick(2, 3, 8))))
    hit = g("Relu", g("Sub", g.const(1.0), g("Abs", gap)))
    return g("Mul", x, g("Sub", g.const(1.0), g("Mul", hit, g.const(2.0)))), shape


@head
def plain(g: Draft, x: str, shape: Shape) -> Made:
    x, n = flat(g, x, shape)
    k = int(g.rng.integers(2, 6))
    return g("Gemm", x, g.const(g.normal(n, k)), g.const(g.normal(k) * np.float32(0.1))), (k,)


@head
def giant(g: Draft, x: str, shape: Shape) -> Made:
    """One logit so large that a tolerance of the largest hides all others."""
    x, (k,) = plain(g, x, shape) or (x, shape)
    lost = g("Add", g("Mul", g.sliced(x, 0, 1, 1), g.const(0.0)), g.const(float(g.pick(-1e9, -1e20))))
    return g("Concat", x, lost, axis=1), (k + 1,)


@head
def grouped(g: Draft, x: str, shape: Shape) -> Made:
    x, n = flat(g, x, shape)
    x = g("Reshape", g("Gemm", x, g.const(2 * g.normal(n, 4)), g.const(g.normal(4))), g.ints(-1, 2, 2))
    x = g.softmax(x, int(g.pick(1, 2, -1, -2)), log=g.rng.random() < 0.5)
    return (g("Flatten", x), (4,)) if g.rng.random() < 0.3 else (x, (2, 2))


@head
def doubled(g: Draft, x: str, shape: Shape) -> Made:
    x, (k,) = plain(g, x, shape) or (x, shape)
    return g.softmax(g.softmax(g("Mul", x, g.const(g.pick(1.0, 30.0, 1e-6))), 1), 1, log=g.rng.random() < 0.5), (k,)


@head
def turned(g: Draft, x: str, shape: Shape) -> Made:
    """A Softmax with something behind it that turns the order of the classes."""
    x, (k,) = plain(g, x, shape) or (x, shape)
    return g("Mul", g.softmax(x, 1), g.const(g.normal(k))), (k,)


@head
def across(g: Draft, x: str, shape: Shape) -> Made:
    """A last Softmax along the batch."""
    x, (k,) = plain(g, x, shape) or (x, shape)
    return g.softmax(x, int(g.pick(1, 0, -2))), (k,)


@piece
def running(g: Draft, x: str, shape: Shape) -> Made:
    """Sums up to each entry, from either end, and triangles, of one sample alone."""
    if g.opset < 14:
        return None
    axis = int(g.rng.integers(len(shape))) + 1
    if len(shape) > 1 and g.rng.random() < 0.4:
        return g("Trilu", x, g.const(int(g.rng.integers(-2, 3)), np.int64), upper=int(g.rng.integers(2))), shape
    reverse, exclusive = (int(v) for v in g.rng.integers(0, 2, 2))
    return g("CumSum", x, g.const(axis, np.int64), reverse=reverse, exclusive=exclusive), shape


@piece
def residual_norm(g: Draft, x: str, shape: Shape) -> Made:
    """A LayerNormalization of a residual sum, in rows of three; a runtime computes both at once."""
    if g.opset < 17:
        return None
    x, n = flat(g, x, shape)
    x = g("Reshape", g("MatMul", x, g.const(g.normal(n, 6) * g.pick(1.0, 1e3))), g.ints(0, 2, 3))
    other = g.pick(
        lambda: g("Relu", x),
        lambda: g("Add", g("MatMul", x, g.const(g.normal(3, 3))), g.const(g.normal(3))),
    )()
    total = g("Add", *g.pick((x, other), (other, x)))
    weights = [g.const(g.normal(3)), g.const(g.normal(3))]
    epsilon = float(g.pick(1e-5, 1e-12, 1e-2))
    return g("LayerNormalization", total, *weights, axis=g.pick(-1, 2, 1), epsilon=epsilon), (2, 3)
