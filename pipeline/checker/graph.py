"""The checker's own reading of an ONNX file: steps over flat values of one sample; what it does not know is refused by name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.checker.maps import Array, Map, convolution, entrywise, matrix, permutation
from pipeline.errors import InputRejected

WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    **{"Add": (), "Sub": (), "Mul": (), "Div": (), "Relu": (), "MatMul": (), "Identity": (), "GlobalAveragePool": ()},
    **{"Flatten": ("axis",), "Transpose": ("perm",), "Reshape": ("allowzero",), "Constant": ("value",)},
    **{"Gemm": ("alpha", "beta", "transA", "transB"), "Conv": ("group", *WINDOW)},
    "BatchNormalization": ("epsilon", "momentum", "training_mode"),
    "AveragePool": ("ceil_mode", "count_include_pad", *WINDOW),
}
"""What is read of each operator."""
ONLY = {"auto_pad": b"NOTSET", "allowzero": 0, "transA": 0, "training_mode": 0, "ceil_mode": 0}
"""The one value of an attribute that is known."""
ENTRIES = 2**20
"""The most entries of a value."""
DOMAINS = "", "ai.onnx"
Numbers = Array | float


@dataclass(frozen=True, eq=False)
class Stage:
    """``y = sum_i W_i x_i + b``, or, without ``maps``, a ReLU of one value."""

    name: str
    inputs: tuple[int, ...]
    maps: tuple[Map, ...] = ()
    offset: Numbers = 0.0
    size: Numbers = 0.0
    """``|b|``, or the magnitudes of what ``b`` is computed from, added up."""
    sums: bool = False
    """Whether it adds many products up, into whose sum a runtime may fold entrywise steps beside it."""
    factor: float = 1.0
    """The most by which folding such a step changes the range of numbers."""


def refusal(what: str) -> InputRejected:
    """The refusal of a file that has what the checker does not know."""
    rule = f"proofs are checked for float32 graphs of {', '.join(sorted(ATTRIBUTES))}"
    return InputRejected(f"{rule}; this file has {what}. Certify it without --proof.")


class FileGraph:
    """The ``steps`` that make the values behind the input, and the ``shapes`` of all, with a batch of one in front.

    A deployment may apply ``(x - mean) / std`` before the file, in float32: ``normalise``. Raises InputRejected (3).
    """

    def __init__(self, content: bytes, normalise: Sequence[Array] = ()):
        try:
            model = onnx.ModelProto.FromString(content)
            self.known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if not t.data_location}
        except Exception as error:
            raise refusal("bytes that are no ONNX model") from error
        self.sha256, self.steps, proto = hashlib.sha256(content).hexdigest(), list[Stage](), model.graph
        ports = [v for v in proto.input if v.name not in self.known]
        if len(ports) != 1 or len(proto.output) != 1 or len(self.known) != len(proto.initializer):
            raise refusal(f"{len(ports)} inputs, {len(proto.output)} outputs, or weights in other files")
        if model.functions or any(o.version < 7 for o in model.opset_import if o.domain in DOMAINS):
            raise refusal("functions, or operators of before opset 7")
        entry, tensor = ports[0].name, ports[0].type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        sized = min(dims[1:], default=1) > 0 and math.prod(dims[1:]) <= ENTRIES
        if tensor.elem_type != onnx.TensorProto.FLOAT or not sized or dims[:1] not in ([0], [1]):
            raise refusal("an input that is not float32, one sample at a time and of a fixed size")
        self.shapes: list[tuple[int, ...]] = [(1, *dims[1:])]
        self.values = {"\0pixels" if normalise else entry: 0}
        self.known |= zip(("\0mean", "\0std"), normalise, strict=False)
        sub, div = ("Sub", ["\0pixels", "\0mean"], ["\0less"]), ("Div", ["\0less", "\0std"], [entry])
        before = [onnx.helper.make_node(*each) for each in (sub, div) if normalise]
        for node in (*before, *proto.node):
            try:
                self._enter(node)
            except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
                raise refusal(f"{node.op_type[:60]!r} in a form that it does not read: {error}") from error
        if proto.output[0].name not in self.values:
            raise refusal("an output that nothing makes of the input")
        self.output = self.values[proto.output[0].name]
        self.relus = [value for value, step in enumerate(self.steps, 1) if not step.maps]
        """The values that ReLUs make, in the file's order."""

    def _enter(self, node: onnx.NodeProto) -> None:
        kind, (name, *more), inputs = node.op_type, node.output, list(node.input)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        odd = [a[:60] for a, v in attributes.items() if a not in ATTRIBUTES.get(kind, ()) or v != ONLY.get(a, v)]
        if node.domain not in DOMAINS or kind not in ATTRIBUTES or odd:
            raise refusal(f"the operator {kind[:60]!r}{f' with {odd}' if odd else ''}")
        if any(more) or name in self.values or name in self.known:
            raise refusal(f"{kind} with several outputs, or two values of one name")
        if kind == "Constant":
            self.known[name] = numpy_helper.to_array(attributes["value"])
        elif kind in ("Add", "Sub", "Mul", "Div"):
            self.values[name] = self._arithmetic(kind, name, *inputs)
        else:
            self.values[name] = getattr(self, f"_{kind.lower()}")(name, self.values[inputs[0]], attributes, *inputs[1:])

    def _weight(self, name: str, shape: Sequence[int] | None = None) -> Array:
        """A constant in float64, broadcast to a shape."""
        value = self.known.get(name)
        fits = value is not None and (shape is None or np.broadcast_shapes(value.shape, shape) == tuple(shape))
        if value is None or not fits or value.dtype != np.float32 or not np.isfinite(value).all():
            raise refusal("a weight that is not a finite float32 constant, or one that changes the shape of a value")
        return (value if shape is None else np.broadcast_to(value, shape)).astype(np.float64)

    def _add(self, step: Stage, shape: Sequence[int]) -> int:
        if min(shape) < 1 or math.prod(shape) > ENTRIES:
            raise refusal(f"a value of no entry, or of more than {ENTRIES}")
        self.steps.append(replace(step, size=np.abs(step.offset)) if np.isscalar(step.size) else step)
        self.shapes.append(tuple(shape))
        return len(self.steps)

    def _entrywise(self, name: str, source: int, scale: Array, offset: Numbers = 0.0, size: Numbers = 0.0) -> int:
        """``s x + b``; scalars may be moved beyond a product of matrices, so that their reciprocals count too."""
        largest = float(np.abs(scale).max())
        factor = max(largest, 1.0, 1 / largest if np.ptp(scale) == 0 and largest else 1.0)
        return self._add(Stage(name, (source,), (entrywise(scale),), offset, size, False, factor), self.shapes[source])

    def _arithmetic(self, kind: str, name: str, first: str, second: str) -> int:
        """Two branches added, or one value and a constant."""
        if first in self.values and second in self.values:
            a, b = self.values[first], self.values[second]
            one = np.ones(math.prod(self.shapes[a]))
            if kind not in ("Add", "Sub") or self.shapes[a] != self.shapes[b]:
                raise refusal(f"{kind} of two values of the input")
            maps = entrywise(one), entrywise(one if kind == "Add" else -one)
            return self._add(Stage(name, (a, b), maps), self.shapes[a])
        source = self.values[first if (left := first in self.values) else second]
        c = self._weight(second if left else first, self.shapes[source]).ravel()
        if kind == "Div" and not (left and c.all()):
            raise refusal("Div by zero, or of a constant by a value")
        if kind in ("Mul", "Div"):
            return self._entrywise(name, source, c if kind == "Mul" else 1 / c)
        sign = -1.0 if kind == "Sub" else 1.0
        return self._entrywise(name, source, np.full_like(c, 1.0 if left else sign), sign * c if left else c)

    def _batchnormalization(self, name: str, source: int, attributes: dict[str, Any], *inputs: str) -> int:
        shape = self.shapes[source]
        wide = [self._weight(i).reshape(-1, *[1] * (len(shape) - 2)) for i in inputs]
        scale, bias, mean, var = (np.broadcast_to(c, shape).ravel() for c in wide)
        if not (var + np.float32(attributes.get("epsilon", 1e-5)) > 2.0**-40).all():
            raise refusal("BatchNormalization with a variance that is not positive")
        s = scale / np.sqrt(var + np.float64(np.float32(attributes.get("epsilon", 1e-5))))
        return self._entrywise(name, source, s, bias - s * mean, np.abs(bias) + np.abs(s * mean))

    def _relu(self, name: str, source: int, attributes: dict[str, Any]) -> int:
        return self._add(Stage(name, (source,)), self.shapes[source])

    def _gemm(self, name: str, source: int, attributes: dict[str, Any], weight: str, bias: str = "") -> int:
        """Products by ``alpha`` and ``beta`` are exact in float64, of two float32 numbers; a runtime may apply them last."""
        shape, alpha, beta = self.shapes[source], attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
        w = (self._weight(weight).T if attributes.get("transB") else self._weight(weight)) * alpha
        if len(shape) < 2 or w.ndim != 2 or shape[-1] != len(w):
            raise refusal("a product by another constant than a matrix on the right")
        out_shape = (*shape[:-1], w.shape[1])
        offset = self._weight(bias, out_shape).ravel() * beta if bias else 0.0
        factor = max(abs(f) for f in (1.0, alpha, 1 / alpha, beta, 1 / beta))
        return self._add(Stage(name, (source,), (matrix(w),), offset, sums=True, factor=factor), out_shape)

    _matmul = _gemm

    def _window(self, name: str, source: int, w: Array, offset: Numbers, attributes: dict[str, Any]) -> int:
        shape = self.shapes[source]
        usual = zip(WINDOW[1:], ((1, 1), w.shape[2:], (0,) * 4, (1, 1)), strict=True)
        dilations, kernel, pads, strides = (tuple(attributes.get(name, value)) for name, value in usual)
        if len(shape) != 4 or w.ndim != 4 or kernel != w.shape[2:] or w.shape[1] not in (1, shape[1]) or min(pads) < 0:
            raise refusal("a window that is not in two dimensions, or does not fit its value")
        map_, out_shape = convolution(w, shape[1:], pads, strides, dilations)
        offset = np.repeat(offset, math.prod(out_shape[1:]))
        return self._add(Stage(name, (source,), (map_,), offset, sums=True), (1, *out_shape))

    def _conv(self, name: str, source: int, attributes: dict[str, Any], weight: str, bias: str = "") -> int:
        """Of several groups, with zeros between them."""
        w, groups = self._weight(weight), int(attributes.get("group", 1))
        whole = np.zeros((len(w), w.shape[1] * groups, *w.shape[2:]))
        if whole.shape[1] != self.shapes[source][1] or len(w) % groups:
            raise refusal("Conv of other channels than its value has")
        for g, part in enumerate(np.split(w, groups)):
            whole[g * len(part) : (g + 1) * len(part), g * w.shape[1] : (g + 1) * w.shape[1]] = part
        return self._window(name, source, whole, self._weight(bias) if bias else np.zeros(len(w)), attributes)

    def _averagepool(self, name: str, source: int, attributes: dict[str, Any]) -> int:
        """Sums of windows, or of whole channels, then each divided by the entries that it counts."""
        shape = self.shapes[source]
        kernel = np.ones((1, 1, *attributes.get("kernel_shape", shape[2:])))
        summed = self._window(name, source, kernel, np.zeros(shape[1]), attributes)
        inside = self.steps[-1].maps[0].apply(np.ones((1, math.prod(shape))))[0]
        count = np.full_like(inside, kernel.size) if attributes.get("count_include_pad") else inside
        return self._entrywise(name, summed, 1 / count)

    _globalaveragepool = _averagepool

    def _identity(self, name: str, source: int, attributes: dict[str, Any]) -> int:
        return source

    def _flatten(self, name: str, source: int, attributes: dict[str, Any]) -> int:
        return self._moved(name, source, lambda x: x.reshape(math.prod(x.shape[: attributes.get("axis", 1)]), -1))

    def _reshape(self, name: str, source: int, attributes: dict[str, Any], shape: str) -> int:
        sizes = [int(d) if d else self.shapes[source][i] for i, d in enumerate(self.known[shape])]
        return self._moved(name, source, lambda x: x.reshape(sizes))

    def _transpose(self, name: str, source: int, attributes: dict[str, Any]) -> int:
        return self._moved(name, source, lambda x: x.transpose(attributes.get("perm")))

    def _moved(self, name: str, source: int, change: Callable[[Array], Array]) -> int:
        order = change(np.arange(math.prod(self.shapes[source])).reshape(self.shapes[source]))
        if order.shape[0] != 1:
            raise refusal("a Flatten, Reshape or Transpose that moves the axis of samples")
        return self._add(Stage(name, (source,), (permutation(order.ravel()),)), order.shape)
