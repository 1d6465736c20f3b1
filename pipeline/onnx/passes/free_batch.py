"""A batch of one that shapes in the file fix is made free: ``[1, 400]`` becomes ``[-1, 400]`` where the one is the batch.

The rules are heuristics: parity with the file, run one sample at a time, decides whether they were right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import InputRejected
from pipeline.onnx.ir import Draft, Node


def fixes_batch_of_one(draft: Draft) -> bool:
    """Whether the first axis of every input is fixed to one, and is not its only axis."""
    return all(len(draft.shapes[i]) >= 2 and draft.shapes[i][0] == 1 for i in draft.inputs)


def free(draft: Draft) -> None:
    """Rewrite settings that contain the batch of one: targets of Reshape, axes of Flatten, Squeeze and Slice."""
    for node in draft.nodes:
        shape = draft.shapes.get(node.inputs[0]) if node.inputs and node.inputs[0] not in draft.constants else None
        if not shape or shape[0] != 1:
            continue
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is not None:
            rewrite(draft, node, shape)


def _reshape(draft: Draft, node: Node, shape: tuple[int, ...]) -> None:
    target = draft.constants.get(node.inputs[1])
    if target is None or target.size == 0:
        return
    resolved = draft.shapes[node.output]
    if resolved and resolved[0] == 1:
        dims = [int(d) for d in target]
        # ONNX infers at most one size: the batch. All others are known.
        node.inputs[1] = draft.constant(np.array([-1, *(resolved[1:])] if dims[0] != 0 else dims, np.int64))


def _flatten(draft: Draft, node: Node, shape: tuple[int, ...]) -> None:
    if draft.shapes[node.output][0] == 1:
        node.attributes["axis"] = 1


def _squeeze(draft: Draft, node: Node, shape: tuple[int, ...]) -> None:
    if not node.input(1):
        axes = [i for i, d in enumerate(shape) if d == 1 and i > 0]
        node.inputs = [node.inputs[0], draft.constant(np.array(axes, np.int64))]


def _slice(draft: Draft, node: Node, shape: tuple[int, ...]) -> None:
    """A slice of the whole batch of one has no effect: that axis is left out."""
    values = [draft.constants.get(v) for v in node.inputs[1:]]
    if any(v is None for v in values) or len(values) < 3:
        return
    starts, ends, axes, *_ = values
    assert starts is not None
    assert ends is not None
    assert axes is not None
    partial = [i for i, a in enumerate(axes) if a % len(shape) != 0 or starts[i] > 0 or ends[i] < 1]
    if len(partial) < len(axes):
        node.inputs[1:] = [draft.constant(np.asarray(v)[partial]) for v in values]


_REWRITES = {"Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Slice": _slice}


def symbolic(op_type: str, inputs: Sequence[tuple[int, ...]], targets: Sequence[list[int]]) -> list[int]:
    """A computed target shape as a constant, from its values at several probes; ``inputs``: the input's shapes there.

    Reshape: a size that never changes stays, one that equals the input's at the same axis becomes ``0``, one other becomes
    ``-1``. Expand: a size that equals the input's own becomes ``1``, and so does the batch (readers broadcast it).
    Raises InputRejected where there is no such constant.
    """
    result = []
    for axis, entries in enumerate(zip(*targets, strict=True)):
        if len(set(entries)) == 1:
            result.append(entries[0])
        elif op_type == "Expand":
            own_sizes = [
                s[axis - len(t)] if len(t) - axis <= len(s) else 1 for s, t in zip(inputs, targets, strict=True)
            ]
            if list(entries) != own_sizes and axis != 0:
                raise InputRejected(
                    "An Expand to a size that depends on the input's is supported along the batch only; export the network"
                    " with fixed input sizes."
                )
            result.append(1)
        else:
            copies = all(axis < len(s) and s[axis] == e for s, e in zip(inputs, entries, strict=True))
            result.append(0 if copies else -1)
    if result.count(-1) > 1:
        raise InputRejected(
            "A Reshape may leave one dimension to be inferred; one in this file leaves several. Export the network with fixed"
            " input sizes."
        )
    return result
