"""What a random graph may do next: one function a family of operators, each of which adds a node or a few."""

from __future__ import annotations

import numpy as np

from tests.fuzz.sketch import MOVES, Sketch, move

__all__ = ["MOVES"]

RISING = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "Elu",
    "Selu",
    "Celu",
    "Softplus",
    "Softsign",
    "HardSigmoid",
    "Erf",
    "Floor",
    "Sign",
)
OTHERS = ("Abs", "Neg", "Sin", "Cos", "HardSwish", "Gelu", "Ceil", "Round", "Exp", "Identity", "Dropout")


@move()
def relu(g: Sketch, x: str) -> str:
    return g("Relu", x)


@move()
def rising(g: Sketch, x: str) -> str:
    return g(str(g.rng.choice(RISING)), x)


@move()
def unary(g: Sketch, x: str) -> str:
    operator = str(g.rng.choice(OTHERS))
    return g(operator, x, **({"approximate": "tanh"} if operator == "Gelu" and g.rng.random() < 0.5 else {}))


@move()
def slopes(g: Sketch, x: str) -> str:
    """A rectifier with a slope, of either sign, or one for each channel."""
    kind = g.rng.integers(4)
    if kind == 0:
        shape = (g.shapes[x][0], *[1] * (len(g.shapes[x]) - 1))
        return g("PRelu", x, g.weights(*shape))
    slope = float(np.round(g.rng.standard_normal(), 3))
    if kind == 1:
        return g("LeakyRelu", x, alpha=slope)
    if kind == 2:
        return g("Elu", x, alpha=slope)
    return g("Celu", x, alpha=abs(slope) + 0.1)


@move()
def clip(g: Sketch, x: str) -> str:
    low, high = sorted(g.rng.standard_normal(2))
    ends = [g.constant(low), g.constant(high)]
    absent = g.rng.integers(4)
    if absent < 2:
        ends[absent] = ""
    return g("Clip", x, *ends)


@move()
def function(g: Sketch, x: str) -> str:
    """Functions with a domain: mostly within it, at times on its edge or outside, where nothing may be certified."""
    operator = str(g.rng.choice(["Log", "Sqrt", "Reciprocal", "Pow"]))
    if g.rng.random() < 0.8:
        x = g("Add", g("Abs", x), g.constant([g.rng.choice([0.0, 0.5])]))
    if operator == "Pow":
        return g("Pow", x, g.constant([g.rng.choice([2.0, 3.0, 0.5, 1.0, -1.0, 1.7])]))
    return g(operator, x)


@move()
def constant_arithmetic(g: Sketch, x: str) -> str:
    shape = g.shapes[x]
    shape = (shape, (1,) * len(shape), (shape[0], *[1] * (len(shape) - 1)))[g.rng.integers(3)]
    operator, c = str(g.rng.choice(["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"])), g.weights(*shape)
    if operator == "Div":
        g.constants[c] = np.where(g.constants[c] == 0, np.float32(1), g.constants[c])
    pair = (c, x) if operator in ("Add", "Sub", "Mul") and g.rng.random() < 0.4 else (x, c)
    return g(operator, *pair)


@move()
def gemm(g: Sketch, x: str) -> str | None:
    if len(g.shapes[x]) != 1:
        return None
    n, m = g.shapes[x][0], int(g.rng.integers(1, 13))
    turned = bool(g.rng.integers(2))
    w = g.weights(m, n, fan_in=n) if turned else g.weights(n, m, fan_in=n)
    scaled = {"alpha": float(g.rng.standard_normal()), "beta": 0.7} if g.rng.random() < 0.3 else {}
    bias = [g.weights(m)] if g.rng.random() < 0.7 else []
    return g("Gemm", x, w, *bias, transB=int(turned), **scaled)


@move()
def matmul(g: Sketch, x: str) -> str:
    n = g.shapes[x][-1]
    made = g("MatMul", x, g.weights(n, int(g.rng.integers(1, 9)), fan_in=n))
    return g("Add", made, g.weights(g.shapes[made][-1])) if g.rng.random() < 0.5 else made


@move(2, 3)
def matmul_left(g: Sketch, x: str) -> str:
    n = g.shapes[x][-2]
    return g("MatMul", g.weights(int(g.rng.integers(1, 6)), n, fan_in=n), x)


@move(2, 3)
def conv(g: Sketch, x: str) -> str:
    channels, *size = g.shapes[x]
    groups = channels if g.rng.random() < 0.2 else 1
    out = groups * int(g.rng.integers(1, 4 if groups == 1 else 2 + 1))
    kernel = [int(g.rng.integers(1, min(3, n) + 1)) for n in size]
    pads = [int(g.rng.integers(0, k)) for k in (*kernel, *kernel)]
    w = g.weights(out, channels // groups, *kernel, fan_in=channels // groups * int(np.prod(kernel)))
    bias = [g.weights(out)] if g.rng.random() < 0.5 else []
    strides = [int(g.rng.integers(1, 3)) for _ in size]
    made = g("Conv", x, w, *bias, group=groups, kernel_shape=kernel, pads=pads, strides=strides)
    return g("Relu", made) if g.rng.random() < 0.3 else made


@move(2, 3)
def conv_transposed(g: Sketch, x: str) -> str:
    channels, *size = g.shapes[x]
    kernel = [int(g.rng.integers(1, 4)) for _ in size]
    strides = [int(g.rng.integers(1, 3)) for _ in size]
    w = g.weights(channels, int(g.rng.integers(1, 4)), *kernel, fan_in=channels)
    return g("ConvTranspose", x, w, kernel_shape=kernel, strides=strides)


@move()
def batch_norm(g: Sketch, x: str) -> str:
    n = g.shapes[x][0]
    return g("BatchNormalization", x, g.weights(n), g.weights(n), g.weights(n), g.positive(n))


@move(1, 2)
def layer_norm(g: Sketch, x: str) -> str:
    n = g.shapes[x][-1]
    return g("LayerNormalization", x, g.weights(n), g.weights(n), axis=-1, epsilon=1e-3)


@move(2, 3)
def instance_norm(g: Sketch, x: str) -> str:
    n = g.shapes[x][0]
    return g("InstanceNormalization", x, g.weights(n), g.weights(n), epsilon=1e-3)


@move(2, 3)
def pool(g: Sketch, x: str) -> str:
    operator = str(g.rng.choice(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"]))
    if operator.startswith("Global"):
        return g(operator, x)
    kernel = [int(g.rng.integers(1, min(3, n) + 1)) for n in g.shapes[x][1:]]
    pads = [int(g.rng.integers(0, (k + 1) // 2)) for k in (*kernel, *kernel)]
    strides = [int(g.rng.integers(1, 3)) for _ in kernel]
    counted = {"count_include_pad": int(g.rng.integers(2))} if operator == "AveragePool" else {}
    return g(operator, x, kernel_shape=kernel, pads=pads, strides=strides, **counted)


@move()
def reduce(g: Sketch, x: str) -> str | None:
    rank, operator = len(g.shapes[x]), str(g.rng.choice(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"]))
    axes = [a for a in range(1, rank + 1) if g.rng.random() < 0.5] or [rank]
    keep = 1 if len(axes) == rank else int(g.rng.integers(2))
    return g(operator, x, g.integers(*axes), keepdims=keep)


@move()
def soft(g: Sketch, x: str) -> str:
    return g(str(g.rng.choice(["Softmax", "LogSoftmax"])), x, axis=int(g.rng.integers(1, len(g.shapes[x]) + 1)))


@move()
def residual(g: Sketch, x: str) -> str:
    """Two values of one shape, joined: a sum, a difference, a maximum, a mean of both, a product."""
    operator = str(g.rng.choice(["Add", "Add", "Sub", "Sum", "Max", "Min", "Mul"]))
    return g(operator, x, g.twin(x))


@move()
def quotient(g: Sketch, x: str) -> str:
    below = g("Add", g("Abs", g.twin(x)), g.constant([g.rng.choice([0.0, 0.7])]))
    return g("Div", g.constant([1.3]) if g.rng.random() < 0.3 else x, below)


@move(2, 3)
def attention(g: Sketch, x: str) -> str:
    turned = [0, *range(1, len(g.shapes[x]) - 1), len(g.shapes[x]), len(g.shapes[x]) - 1]
    return g("MatMul", x, g("Transpose", g.twin(x), perm=turned))


@move()
def concat(g: Sketch, x: str) -> str:
    axis = int(g.rng.integers(1, len(g.shapes[x]) + 1))
    return g("Concat", x, g.twin(x), axis=axis)


@move()
def where(g: Sketch, x: str) -> str:
    mask = g.constant(g.rng.random(g.shapes[x]) < 0.5, bool)
    return g("Where", mask, x, g.twin(x))


@move()
def reshaped(g: Sketch, x: str) -> str:
    shape = g.shapes[x]
    kind = g.rng.integers(4)
    if kind == 0:
        return g("Flatten", x)
    if kind == 1:
        return g("Transpose", x, perm=[0, *(1 + g.rng.permutation(len(shape)))])
    if kind == 2 and len(shape) < 3:
        return g("Unsqueeze", x, g.integers(int(g.rng.integers(1, len(shape) + 2))))
    n = int(np.prod(shape))
    first = int(g.rng.choice([d for d in range(1, n + 1) if n % d == 0]))
    return g("Reshape", x, g.integers(0, first, -1))


@move()
def picked(g: Sketch, x: str) -> str | None:
    axis = int(g.rng.integers(1, len(g.shapes[x]) + 1))
    n, kind = g.shapes[x][axis - 1], g.rng.integers(4)
    if kind == 0:
        return g("Gather", x, g.integers(*g.rng.integers(-n, n, int(g.rng.integers(1, 5)))), axis=axis)
    if kind == 1:
        return g("Slice", x, g.integers(n), g.integers(-(2**62)), g.integers(axis), g.integers(-1))
    if kind == 2:
        start = int(g.rng.integers(n))
        return g(
            "Slice", x, g.integers(start), g.integers(2**62), g.integers(axis), g.integers(int(g.rng.integers(1, 3)))
        )
    if n < 2:
        return None
    first = int(g.rng.integers(1, n))
    made = g("Split", x, g.integers(first, n - first), outputs=2, axis=axis)
    return g("Concat", made.replace("_0", "_1"), made, axis=axis)


@move()
def widened(g: Sketch, x: str) -> str:
    rank = len(g.shapes[x])
    kind = g.rng.integers(3)
    if kind == 0:
        return g("Tile", x, g.integers(1, *g.rng.integers(1, 3, rank)))
    if kind == 1:
        wanted = [int(g.rng.integers(1, 4)) if n == 1 else n for n in g.shapes[x]]
        return g("Expand", x, g.integers(1, *wanted))
    pads = [0, *g.rng.integers(0, 2, rank)]
    mode = str(g.rng.choice(["constant", "edge", "reflect"])) if rank == 3 and min(g.shapes[x][1:]) > 1 else "constant"
    if mode != "constant":
        pads = [0, 0, *g.rng.integers(0, 2, 2)]
    value = [g.constant(np.round(g.rng.standard_normal(), 2))] if mode == "constant" else []
    return g("Pad", x, g.integers(*pads, *pads), *value, mode=mode)


@move(3)
def resized(g: Sketch, x: str) -> str:
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if g.rng.random() < 0.5:
        how = {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}
    return g("Resize", x, "", g.constant([1, 1, *g.rng.integers(1, 3, 2)]), **how)


@move()
def quantized(g: Sketch, x: str) -> str:
    grid = g.constant(np.round(abs(g.rng.standard_normal()) / 20 + 0.005, 4)), g.constant(3, np.uint8)
    return g("DequantizeLinear", g("QuantizeLinear", x, *grid), *grid)
