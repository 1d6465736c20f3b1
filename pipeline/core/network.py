"""Network: the graph of an ONNX file as torch modules, and the table that leads from its parameters back into the file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.core import ops
from pipeline.errors import PipelineError

SHAPE = "shape"
"""The key, in the meta of an fx node, of the shape of its value, batch first."""


@dataclass(frozen=True)
class Port:
    """One graph input or output: its name in the file, its element type, its shape (None where a dimension is free)."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Origin:
    """The node of the file that a node comes from: its operator, its name, and the name of its output there.

    Names in the file are untrusted text. ``output`` is empty for an intermediate node, whose value the file does not have.
    """

    op_type: str
    name: str
    output: str
    axes: tuple[tuple[int, ...], ...] | None = None
    """For each axis of ``output`` in the file, the axes of the node's value that it is the product of; None where they agree."""


@dataclass(frozen=True)
class Weight:
    """The initialiser that a parameter comes from, and the steps that lead from the parameter back to the initialiser.

    ``steps`` are applied in order: ``("transpose", (1, 0))``, ``("reshape", (64, 3, 7, 7))``, ``("scale", 0.5)``.
    """

    initializer: str
    steps: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of a plan, ``values[index] = op(*values[args])``; it is the last to read the values ``frees``."""

    index: int
    name: str
    op: nn.Module
    args: tuple[int, ...]
    frees: tuple[int, ...]
    shape: tuple[int | None, ...] | None = None
    """The shape of the value, batch first; None where it is not known."""


@dataclass(frozen=True)
class Plan:
    """The graph as a flat list of steps: a walk is one loop over them, which torch.compile can trace."""

    inputs: tuple[int, ...]
    constants: tuple[tuple[int, nn.Module, str], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.names)

    def in_float64(self) -> Plan:
        """The plan over float64 copies of all tensors; operators without tensors are shared with this plan."""
        copies, constants = nn.Module(), []
        for index, owner, name in self.constants:
            tensor = getattr(owner, name).detach()
            copies.register_buffer(f"c{index}", tensor.double() if tensor.is_floating_point() else tensor)
            constants.append((index, copies, f"c{index}"))
        steps = (
            step
            if next(step.op.parameters(), next(step.op.buffers(), None)) is None
            else replace(step, op=copy.deepcopy(step.op).double())
            for step in self.steps
        )
        return replace(self, constants=tuple(constants), steps=tuple(steps))

    def before_softmax(self) -> tuple[Plan, nn.Softmax | nn.LogSoftmax | None]:
        """The plan up to the logits, and the Softmax or LogSoftmax after them; None where the plan ends in the logits.

        A Softmax keeps the order of the classes where it normalises all classes of a sample together, as one vector along its
        axis; one that normalises groups of them does not. Of two in a row the first is an operator like any other: its rounding
        may make ties. After the Softmax only operators ``IN_ORDER`` may follow.
        """
        if len(self.outputs) != 1:
            return self, None
        steps, (output,) = list(self.steps), self.outputs
        while steps and steps[-1].index == output and isinstance(steps[-1].op, IN_ORDER):
            (output,) = steps.pop().args
        last = steps[-1] if steps and steps[-1].index == output else None
        if last is not None and isinstance(last.op, nn.Softmax | nn.LogSoftmax) and _all_classes(last.op, last.shape):
            return replace(self, steps=tuple(steps[:-1]), outputs=last.args), last.op
        steps, (output,) = list(self.steps), self.outputs
        while steps and steps[-1].index == output and isinstance(steps[-1].op, nn.Identity):
            (output,) = steps.pop().args
        return replace(self, steps=tuple(steps), outputs=(output,)), None


IN_ORDER = (nn.Identity, nn.Flatten, ops.Reshape, ops.Squeeze, ops.Unsqueeze)
"""Operators that keep the order of the entries of a sample, with the batch axis first before and after."""


def _all_classes(op: nn.Softmax | nn.LogSoftmax, shape: tuple[int | None, ...] | None) -> bool:
    """Whether a Softmax of values of this shape normalises all entries of a sample together; False for an unknown shape."""
    if shape is None or op.dim is None or not -len(shape) <= op.dim < len(shape):
        return False
    axis = op.dim % len(shape)
    return axis > 0 and all(n == 1 for i, n in enumerate(shape) if i not in (0, axis))


@dataclass(frozen=True)
class Provenance:
    """Where the nodes and parameters of a Network come from in its file."""

    nodes: Mapping[str, Origin] = field(default_factory=dict)
    weights: Mapping[str, Weight] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    """Parameters that never train, each with the reason."""
    inserted: Mapping[str, str] = field(default_factory=dict)
    """BatchNorms that the file does not have, each with the node whose value it normalises."""


class Network(nn.Module):
    """A graph over ``torch.nn`` and ``pipeline.core.ops``, in eval mode, called with its inputs in the file's order.

    Every node of ``graph`` is a placeholder, a ``get_attr`` (a constant tensor), a ``call_module`` or the output. Nodes have
    neutral names; the names in the file are in ``provenance``.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        inputs: tuple[Port, ...],
        outputs: tuple[Port, ...],
        provenance: Provenance | None = None,
    ):
        super().__init__()
        self.graph = graph
        self.inputs, self.outputs = inputs, outputs
        self.provenance = provenance or Provenance()
        self.eval()

    def forward(self, *xs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.graph(*xs)

    def plan(self) -> Plan:
        """The graph as a flat list of steps with the last use of every value. Raises PipelineError for any other kind of node."""
        nodes = [n for n in self.graph.graph.nodes if n.op != "output"]
        index = {n: i for i, n in enumerate(nodes)}
        output = next(n for n in self.graph.graph.nodes if n.op == "output")
        returned = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
        outputs = tuple(index[n] for n in returned)
        shapes = {n: tuple(n.meta[SHAPE]) for n in nodes if SHAPE in n.meta}
        shapes |= {n: p.shape for n, p in zip(returned, self.outputs, strict=False) if n not in shapes}
        last: dict[int, int] = {}
        for n in nodes:
            for a in n.args:
                last[index[a]] = index[n]
        inputs, constants, steps = [], [], []
        for i, n in enumerate(nodes):
            if n.op == "placeholder":
                inputs.append(i)
            elif n.op == "get_attr":
                owner, _, name = str(n.target).rpartition(".")
                constants.append((i, self.graph.get_submodule(owner), name))
            elif n.op == "call_module" and not n.kwargs:
                args = tuple(index[a] for a in n.args)
                frees = tuple(a for a in dict.fromkeys(args) if last[a] == i and a not in outputs)
                steps.append(Step(i, n.name, self.graph.get_submodule(str(n.target)), args, frees, shapes.get(n)))
            else:
                raise PipelineError(f"a Network holds placeholders, constants and modules; node {n.name} is a {n.op}.")
        return Plan(tuple(inputs), tuple(constants), tuple(steps), outputs, tuple(n.name for n in nodes))

    def origin(self, name: str) -> str:
        """A node as messages name it: its operator and its name in the file, control characters escaped."""
        origin = self.provenance.nodes.get(name)
        if origin is None:
            return name
        label = (origin.name or origin.output).encode("unicode_escape").decode("ascii")[:200]
        return f"{origin.op_type} '{label}'"

    def in_float64(self) -> Network:
        """A float64 copy in eval mode, in which float32 weights are exact."""
        return copy.deepcopy(self).double().eval()

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name: those that require gradients and are not frozen."""
        return {n: p for n, p in self.graph.named_parameters() if n not in self.provenance.frozen and p.requires_grad}
