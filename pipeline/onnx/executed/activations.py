"""Activations that ONNX Runtime computes in the kernel of the layer before them: they have no rounding but their own."""

from __future__ import annotations

import numpy as np

from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.matching import Matching, Pair, Steps, behind, rewriting
from pipeline.onnx.names import shown


def before_activation(at: Matching, own: GraphOperator, file: str) -> str | None:
    """The file's value that the activation of an executed layer reads; the value itself where there is none, None where
    it is another activation."""
    name = own.attributes.get("activation", b"").decode()
    if not name:
        return file
    file, theirs = behind(at.file, file)
    if theirs is None or theirs.outputs[0] != file or theirs.type != name:
        return None
    mine, wanted = _executed_settings(own, name), _settings(at, theirs)
    if wanted is None:
        return None
    _, relu = behind(at.file, theirs.inputs[0])
    if name == "Clip" and relu is not None and relu.type == "Relu" and _close(mine, _above_zero(wanted)):
        return relu.inputs[0]
    return theirs.inputs[0] if _close(mine, wanted) else None


def other_activation(own: GraphOperator) -> str:
    """Why ``before_activation`` found none."""
    name = own.attributes.get("activation", b"").decode()
    if name in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Clip", *_KEYS):
        return f"the {name} in its kernel is not that of the file"
    return f"it computes {shown(name)} in its own kernel, whose error was not measured there"


def _above_zero(ends: tuple[float, ...]) -> tuple[float, ...]:
    """Relu before Clip is one Clip from ``max(0, min)``."""
    return max(0.0, ends[0]), ends[1]


def _executed_settings(own: GraphOperator, name: str) -> tuple[float, ...]:
    if "activation_params" in own.attributes:
        return tuple(own.attributes["activation_params"])
    return tuple(
        own.attributes[f"activation_{key}"] for key in _KEYS.get(name, ()) if f"activation_{key}" in own.attributes
    )


_KEYS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}
_LIMIT = float(np.finfo(np.float32).max)


def _settings(at: Matching, theirs: GraphOperator) -> tuple[float, ...] | None:
    """What an activation of the file is set to, in the order of ONNX Runtime's parameters; None for one that is not known."""
    if theirs.type in ("Relu", "Sigmoid", "Tanh", "HardSwish"):
        return ()
    if theirs.type in _KEYS:
        return tuple(theirs.attributes[key] for key in _KEYS[theirs.type])
    if theirs.type == "Clip":
        return clip_ends(at.file, theirs)
    return None


def clip_ends(graph: Graph, own: GraphOperator) -> tuple[float, float] | None:
    """Both ends of a Clip, as attributes or constant inputs; None where one is computed."""
    ends = []
    for position, (name, default) in enumerate((("min", -_LIMIT), ("max", _LIMIT)), start=1):
        value = own.input(position)
        array = graph.constants.get(value) if value else np.asarray(own.attributes.get(name, default))
        if array is None:
            return None
        ends.append(float(array.reshape(-1)[0]))
    return ends[0], ends[1]


def _close(got: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
    return len(got) == len(wanted) and all(
        np.float32(np.clip(a, -_LIMIT, _LIMIT)) == np.float32(np.clip(b, -_LIMIT, _LIMIT))
        for a, b in zip(got, wanted, strict=True)
    )


@rewriting("Clip")
def clipped_relu(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """Relu before Clip, executed as one Clip."""
    _, theirs = behind(at.file, pair.file)
    if theirs is None or theirs.type != "Clip":
        return False
    _, relu = behind(at.file, theirs.inputs[0])
    mine, wanted = clip_ends(at.executed, own), clip_ends(at.file, theirs)
    if relu is None or relu.type != "Relu" or mine is None or wanted is None:
        return False
    if not _close(mine, _above_zero(wanted)):
        return False
    return (yield Pair(own.inputs[0], relu.inputs[0], pair.view))


@rewriting("Mul")
def hard_swish(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """HardSwish, a function of ONNX, executed as its parts ``x HardSigmoid(x)``: four roundings, which are charged."""
    _, theirs = behind(at.file, pair.file)
    if theirs is None or theirs.type != "HardSwish" or len(own.inputs) != 2:
        return False
    for x, gated in (own.inputs, own.inputs[::-1]):
        _, gate = behind(at.executed, gated)
        if gate is None or gate.type != "HardSigmoid" or gate.inputs[0] != x:
            continue
        if _close((gate.attributes.get("alpha", 0.2), gate.attributes.get("beta", 0.5)), (1 / 6, 0.5)):
            return (yield Pair(x, theirs.inputs[0], pair.view))
    return False
