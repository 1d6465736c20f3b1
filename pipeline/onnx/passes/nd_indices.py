"""GatherND and ScatterND at constant indices as Gather: PyTorch's exporter writes indexing by several arrays so.

Indices choose among all entries of the first ``k`` axes, which become one axis; a scattered value is what is chosen of the data
and of the updates, one behind the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.onnx.ir import Attributes, Draft, Node
from pipeline.onnx.probe import Probes


def lower(draft: Draft, probes: Probes) -> None:
    """Rewrite those that have such a form; any other stays, and its lowering refuses it by name."""
    nodes: list[Node] = []
    for node in draft.nodes:
        rewrite = {"GatherND": _gather, "ScatterND": _scatter}.get(node.op_type)
        nodes.extend((rewrite(_Rewriting(draft, probes), node) if rewrite else None) or [node])
    draft.nodes = nodes


@dataclass
class _Rewriting:
    """The nodes that take the place of one, and the measured values of what they compute."""

    draft: Draft
    probes: Probes
    nodes: list[Node] = field(default_factory=list)

    def add(self, operator: str, inputs: list[str], compute: Callable[..., np.ndarray], **attributes: int) -> str:
        """Append a node; returns its value, which ``compute`` gives of the inputs."""
        name, draft = self.draft.fresh(), self.draft
        for run in self.probes.values:
            assert isinstance(run, dict)
            run[name] = compute(*(draft.constants.get(v, run.get(v)) for v in inputs))
        draft.shapes[name] = self.probes.values[0][name].shape
        draft.dtypes[name] = self.probes.values[0][name].dtype
        self.nodes.append(Node(operator, inputs, [name], Attributes(attributes)))
        return name

    def reshaped(self, value: str, target: Sequence[int]) -> str:
        """A value in another shape."""
        goal = self.draft.constant(np.array(target, np.int64))
        return self.add("Reshape", [value, goal], lambda x, shape: np.asarray(x).reshape(shape))

    def chosen(self, value: str, places: np.ndarray) -> str:
        """Entries along the first axis."""
        return self.add("Gather", [value, self.draft.constant(places)], lambda x, at: np.asarray(x)[at], axis=0)

    def named(self, value: str, output: str) -> list[Node]:
        """The nodes, the last of which computes ``output``."""
        assert self.nodes[-1].output == value
        self.nodes[-1].outputs = [output]
        return self.nodes

    def target(self, value: str, depth: int) -> list[int] | None:
        """The shape of a value, -1 where it depends on the batch size; None where it does in the first axes, or twice."""
        if value in self.draft.constants:
            return list(self.draft.shapes[value])
        shapes = {np.shape(run[value]) for run in self.probes.values if value in run}
        if not shapes or len({len(s) for s in shapes}) > 1:
            return None
        target = [sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True)]
        return None if -1 in target[:depth] or target.count(-1) > 1 else target

    def flat(self, value: str, depth: int) -> str | None:
        """A value whose first ``depth`` axes are one; None where the samples stand in one of them."""
        target = self.target(value, depth)
        if target is None or depth == 1:
            return value if target is not None else None
        return self.reshaped(value, [math.prod(target[:depth]), *target[depth:]])


def _gather(made: _Rewriting, node: Node) -> list[Node] | None:
    draft, (data, indices) = made.draft, node.inputs
    at, target = _places(draft, node), made.target(node.output, 0)
    if at is None or target is None or node.attributes.get("batch_dims", 0) != 0:
        return None
    flat = made.flat(data, draft.constants[indices].shape[-1])
    if flat is None:
        return None
    result = made.chosen(flat, at.reshape(-1))
    return made.named(result if at.ndim == 1 else made.reshaped(result, target), node.output)


def _scatter(made: _Rewriting, node: Node) -> list[Node] | None:
    draft, (data, indices, updates) = made.draft, node.inputs
    at, target = _places(draft, node), made.target(data, 0)
    if at is None or target is None or node.attributes.get("reduction", b"none") != b"none":
        return None
    if len(np.unique(at)) < at.size:
        return None  # of two updates of one entry either may be the last
    depth = draft.constants[indices].shape[-1]
    flat, new = made.flat(data, depth), made.flat(updates, at.ndim)
    if flat is None or new is None:
        return None
    size = math.prod(draft.shapes[data][:depth])
    places = np.arange(size)
    places[at.reshape(-1)] = size + np.arange(at.size)
    both = made.add("Concat", [flat, new], lambda *parts: np.concatenate(parts), axis=0)
    result = made.chosen(both, places)
    return made.named(result if depth == 1 else made.reshaped(result, target), node.output)


def _places(draft: Draft, node: Node) -> np.ndarray | None:
    """The constant indices into the first axes as indices into one axis; None where they are computed, or beyond it."""
    indices = draft.constants.get(node.inputs[1])
    shape = draft.shapes.get(node.inputs[0], ())
    if indices is None or indices.ndim < 2 or indices.size == 0 or indices.shape[-1] > len(shape):
        return None
    sizes = np.array(shape[: indices.shape[-1]])
    at = np.where(indices < 0, indices + sizes, indices)
    if ((at < 0) | (at >= sizes)).any():
        return None
    return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(at, -1, 0)), tuple(sizes)))
