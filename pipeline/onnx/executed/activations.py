"""Activations that ONNX Runtime computes in the kernel of the layer before them: they have no rounding but their own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.matching import Matching, Pair, Steps, rewriting, skip_copies
from pipeline.onnx.names import shown


def before_activation(matching: Matching, op: GraphOperator, file: str) -> str | None:
    """The value that the file's activation reads, where an executed layer includes it; ``file`` itself where the layer has none,
    None where it is another activation.
    """
    name = op.attributes.get("activation", b"").decode()
    if not name:
        return file
    file, file_op = skip_copies(matching.file, file)
    if file_op is None or file_op.outputs[0] != file or file_op.type != name:
        return None
    op_settings, file_settings = _executed_settings(op, name), _settings(matching, file_op)
    if file_settings is None:
        return None
    _, relu = skip_copies(matching.file, file_op.inputs[0])
    if name == "Clip" and relu is not None and relu.type == "Relu" and _close(op_settings, _above_zero(file_settings)):
        return relu.inputs[0]
    return file_op.inputs[0] if _close(op_settings, file_settings) else None


def other_activation(op: GraphOperator) -> str:
    """Why ``before_activation`` returned None."""
    name = op.attributes.get("activation", b"").decode()
    if name in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Clip", *_KEYS):
        return f"the {name} in its kernel is not that of the file"
    return f"it computes {shown(name)} in its own kernel, whose error was not measured there"


def _above_zero(ends: tuple[float, ...]) -> tuple[float, ...]:
    """The ends of the Clip that equals Relu before a Clip."""
    return max(0.0, ends[0]), ends[1]


def _executed_settings(op: GraphOperator, name: str) -> tuple[float, ...]:
    if "activation_params" in op.attributes:
        return tuple(op.attributes["activation_params"])
    return tuple(
        op.attributes[f"activation_{key}"] for key in _KEYS.get(name, ()) if f"activation_{key}" in op.attributes
    )


_KEYS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}
_LIMIT = float(np.finfo(np.float32).max)


def _settings(matching: Matching, file_op: GraphOperator) -> tuple[float, ...] | None:
    """The settings of an activation of the file, in the order of ONNX Runtime's parameters; None for an unknown activation."""
    if file_op.type in ("Relu", "Sigmoid", "Tanh", "HardSwish"):
        return ()
    if file_op.type in _KEYS:
        return tuple(file_op.attributes[key] for key in _KEYS[file_op.type])
    if file_op.type == "Clip":
        return clip_ends(matching.file, file_op)
    return None


def clip_ends(graph: Graph, op: GraphOperator) -> tuple[float, float] | None:
    """Both ends of a Clip, as attributes or constant inputs; None where one is computed."""
    ends = []
    for position, (name, default) in enumerate((("min", -_LIMIT), ("max", _LIMIT)), start=1):
        value = op.input(position)
        array = graph.constants.get(value) if value else np.asarray(op.attributes.get(name, default))
        if array is None:
            return None
        ends.append(float(array.reshape(-1)[0]))
    return ends[0], ends[1]


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(
        np.float32(np.clip(a, -_LIMIT, _LIMIT)) == np.float32(np.clip(b, -_LIMIT, _LIMIT))
        for a, b in zip(one, other, strict=True)
    )


@rewriting("Clip")
def clipped_relu(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """Relu before Clip, executed as one Clip."""
    _, file_op = skip_copies(matching.file, pair.file)
    if file_op is None or file_op.type != "Clip":
        return False
    _, relu = skip_copies(matching.file, file_op.inputs[0])
    op_ends, file_ends = clip_ends(matching.executed, op), clip_ends(matching.file, file_op)
    if relu is None or relu.type != "Relu" or op_ends is None or file_ends is None:
        return False
    if not _close(op_ends, _above_zero(file_ends)):
        return False
    return (yield Pair(op.inputs[0], relu.inputs[0], pair.view))


@rewriting("Mul")
def hard_swish(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """HardSwish, a function of ONNX, executed as its parts ``x HardSigmoid(x)``: four roundings, which are charged."""
    _, file_op = skip_copies(matching.file, pair.file)
    if file_op is None or file_op.type != "HardSwish" or len(op.inputs) != 2:
        return False
    for x, gate_value in (op.inputs, op.inputs[::-1]):
        _, gate = skip_copies(matching.executed, gate_value)
        if gate is None or gate.type != "HardSigmoid" or gate.inputs[0] != x:
            continue
        if _close((gate.attributes.get("alpha", 0.2), gate.attributes.get("beta", 0.5)), (1 / 6, 0.5)):
            return (yield Pair(x, file_op.inputs[0], pair.view))
    return False


@rewriting("com.microsoft.QuickGelu")
def sigmoid_gate(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """``x Sigmoid(x)`` in one kernel, whose error is measured as one of the Sigmoid: see ``commands/guarantee.py``."""
    if op.attributes.get("alpha") != 1.0:
        return matching.refuse(op, "the error of its kernel was measured for an alpha of 1")
    for factor, x in _operands(matching, pair.file, "Mul"):
        gate = _producer(matching, factor, "Sigmoid")
        if gate is not None and _same(matching, gate.inputs[0], x):
            return (yield Pair(op.inputs[0], x, pair.view))
    return False


@rewriting("com.microsoft.Gelu", "com.microsoft.BiasGelu")
def gelu(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """A Gelu in one kernel, with an addition before it or without: the file's own, or one of ``x (1 + Erf(x / sqrt 2)) / 2``.

    The kernel's error is measured as one of the file's Gelu or Erf: see ``commands/guarantee.py``.
    """
    whole = _producer(matching, pair.file, "Gelu")
    x = _gelu_of_parts(matching, pair.file)
    if whole is not None and op.type == "com.microsoft.BiasGelu" and whole.attributes.get("approximate") == b"none":
        x = whole.inputs[0]
    if x is None:
        return False
    if op.type == "com.microsoft.Gelu":
        return (yield Pair(op.inputs[0], x, pair.view))
    for bias, value in _operands(matching, x, "Add"):
        if pair.view.plain and (yield Pair(op.inputs[1], bias)) and (yield Pair(op.inputs[0], value)):
            return True
    return False


def _gelu_of_parts(matching: Matching, value: str) -> str | None:
    """The ``x`` of which a value is ``x (1 + Erf(x / sqrt 2)) / 2``, its factors in any order; None for another value."""
    for pair, third in _operands(matching, value, "Mul"):
        for first, second in _operands(matching, pair, "Mul"):
            for half, x, gate in permutations((first, second, third)):
                if not _is(matching, half, 0.5):
                    continue
                for one, erf_value in _operands(matching, gate, "Add"):
                    erf = _producer(matching, erf_value, "Erf")
                    if erf is not None and _is(matching, one, 1.0) and _by_root(matching, erf.inputs[0], x):
                        return x
    return None


def _by_root(matching: Matching, value: str, x: str) -> bool:
    """Whether a value is ``x`` divided by the float32 number next to ``sqrt 2``."""
    quotient = _producer(matching, value, "Div")
    root = float(np.float32(2**0.5))
    return quotient is not None and _same(matching, quotient.inputs[0], x) and _is(matching, quotient.inputs[1], root)


def _operands(matching: Matching, value: str, operator: str) -> Iterator[tuple[str, str]]:
    """Both orders of the operands of the file's sum or product that computes a value; none where another operator does."""
    op = _producer(matching, value, operator)
    if op is not None and len(op.inputs) == 2:
        yield op.inputs[0], op.inputs[1]
        yield op.inputs[1], op.inputs[0]


def _producer(matching: Matching, value: str, operator: str) -> GraphOperator | None:
    """The operator of the file that computes a value, if it is of this type."""
    name, op = skip_copies(matching.file, value)
    return op if op is not None and op.type == operator and op.outputs[0] == name else None


def _is(matching: Matching, value: str, number: float) -> bool:
    """Whether a value is a constant of this one number, of no more axes than any value has."""
    constant = matching.file.constants.get(value)
    if constant is None or constant.dtype != np.float32 or constant.size != 1 or constant.ndim > 1:
        return False
    return bool(constant.item() == number)


def _same(matching: Matching, one: str, other: str) -> bool:
    """Whether two values of the file are the same, or copies of the same."""
    return skip_copies(matching.file, one)[0] == skip_copies(matching.file, other)[0]
