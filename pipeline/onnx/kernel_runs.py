"""Runs a float32 kernel of ONNX Runtime in each form that its library has code for: vectors, the rest of one, short tensors.

``kernel_sweep.py`` tries all 2^32 inputs in these forms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from pipeline.onnx.kernels import OPERATORS, silu

CHUNK = 1 << 16
"""The longest tensor on which a kernel is run here."""
PIECES = 1 << 10
"""About how many inputs one run on short tensors takes."""
_OPSET = 20
_INFINITE = 2.0**128 - 2.0**103
"""The least number that rounds to infinity."""

Shape = int | str | list[int | str | None]
Run = Callable[[np.ndarray], np.ndarray]
"""A kernel on up to ``CHUNK`` float32 inputs."""


def full(operator: str) -> Run:
    """The kernel on one long tensor: its loop over vectors."""
    if OPERATORS[operator].rows:
        return _row(CHUNK)
    return _seen(operator, _session(_nodes(operator, "x", "y"), "n", optimised=True))


def rest(operator: str) -> Run:
    """The kernel on an equally long tensor, with the scalar code for elements that fill no vector.

    Eigen uses vectors for the aligned part of the output, and scalar code for the rest; an output that begins at an odd byte has
    no aligned part. Other libraries compute such an output like any other.
    """
    kernel = OPERATORS[operator]
    if kernel.rows:
        return _row(kernel.tail)
    session, memory, x = (
        _inference(_nodes(operator, "x", "y"), CHUNK, optimised=True),
        np.zeros(4 * CHUNK + 64, np.uint8),
        np.zeros(CHUNK, np.float32),
    )
    odd = (-memory.ctypes.data) % 64 + 1
    bound = session.io_binding()
    bound.bind_input("x", "cpu", 0, np.float32, [CHUNK], x.ctypes.data)
    bound.bind_output("y", "cpu", 0, np.float32, [CHUNK], memory.ctypes.data + odd)

    def apply(values: np.ndarray) -> np.ndarray:
        x[: len(values)], x[len(values) :] = values, 0
        session.run_with_iobinding(bound)
        return np.frombuffer(memory[odd : odd + 4 * len(values)].tobytes(), np.float32)

    return _seen(operator, apply)


def in_pieces(operator: str, size: int | None = None) -> Run:
    """The kernel on tensors of ``size`` numbers each, by default shorter than a vector.

    One graph splits, applies and concatenates, since a call into ONNX Runtime takes ten times as long as a node.
    """
    kernel = OPERATORS[operator]
    if kernel.rows:
        return _row(16)
    size = size or kernel.tail
    count = -(-PIECES // size)
    length = count * size
    names = [[f"{letter}{i}" for i in range(count)] for letter in "ab"]
    nodes = [helper.make_node("Split", ["x"], names[0], num_outputs=count)]
    nodes += [node for a, b in zip(*names, strict=True) for node in _nodes(operator, a, b)]
    run = _session([*nodes, helper.make_node("Concat", names[1], ["y"], axis=0)], length, optimised=False)

    def apply(x: np.ndarray) -> np.ndarray:
        filled = np.concatenate([x, np.full(-len(x) % length, x[-1])])
        parts = [run(filled[i : i + length]) for i in range(0, len(filled), length)]
        return np.concatenate(parts)[: len(x)]

    return _seen(operator, apply)


def _seen(operator: str, run: Run) -> Run:
    """The kernel itself; of a product ``y = x (c + g(x)) / (c + 1)``, in float64, ``g`` as it is seen by ``y``.

    That is ``g(x) + (c + 1) (y - x (c + g(x)) / (c + 1)) / |x|``, with ``2^-126`` for a smaller ``|x|``: an error ``E`` of it is
    one of ``E |x| / (c + 1)`` of the product. An infinite product is taken for the least number that rounds to infinity.
    """
    kernel = OPERATORS[operator]
    if kernel.product is None:
        return run
    whole, parts = kernel.product, 1 if kernel.product is silu else 2

    def apply(x: np.ndarray) -> np.ndarray:
        wide = torch.from_numpy(x).double()
        error = np.clip(run(x).astype(np.float64), -_INFINITE, _INFINITE) - whole(wide).numpy()
        return kernel.reference(wide).numpy() + parts * error / np.maximum(np.abs(x.astype(np.float64)), 2.0**-126)

    return apply


def _row(size: int) -> Run:
    """``e^x`` for ``x <= 0`` as ``p_x / p_0`` in rows of one zero and ``size`` inputs, in float64."""
    run = _session([helper.make_node("Softmax", ["x"], ["y"], axis=-1)], [None, None], optimised=True)

    def apply(x: np.ndarray) -> np.ndarray:
        wide = min(size, len(x))
        filled = np.concatenate([x, np.full(-len(x) % wide, x[-1])]).reshape(-1, wide)
        got = run(np.concatenate([np.zeros((len(filled), 1), np.float32), filled], 1)).astype(np.float64)
        return (got[:, 1:] / got[:, :1]).reshape(-1)[: len(x)]

    return apply


def _nodes(operator: str, x: str, y: str) -> list[onnx.NodeProto]:
    kernel = OPERATORS[operator]
    before = [helper.make_node("Sub", [x, x], [f"{x}_zero"])] if kernel.bias else []
    inputs = [x, f"{x}_zero"] if kernel.bias else [x]
    return [*before, helper.make_node(kernel.node or operator, inputs, [y], domain=kernel.domain, **kernel.attributes)]


def _inference(nodes: list[onnx.NodeProto], shape: Shape, *, optimised: bool) -> Any:
    import onnxruntime as ort

    dims: list[int | str | None] = shape if isinstance(shape, list) else [shape]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in "xy")
    graph = helper.make_graph(nodes, "kernel", [x], [y])
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options, levels = ort.SessionOptions(), ort.GraphOptimizationLevel
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _session(nodes: list[onnx.NodeProto], shape: Shape, *, optimised: bool) -> Run:
    inference = _inference(nodes, shape, optimised=optimised)
    return lambda x: np.asarray(inference.run(None, {"x": x})[0])
