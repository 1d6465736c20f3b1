"""One number a sample as a classifier of two classes: label 1 where it exceeds a threshold, else 0."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx, nn

from pipeline.core import ops
from pipeline.core.network import IN_ORDER, SHAPE, Network, Port
from pipeline.errors import UsageError

LEAST = 1e-4
"""How near to 0 or 1 a threshold of a probability may lie: beyond, float32 hardly tells probabilities apart."""
ROW = "binary_row"
"""The first node that is put behind a network."""


@dataclass(frozen=True)
class Threshold:
    """``label = 1 if y > value else 0`` of the one output ``y``, a logit or the probability that a Sigmoid makes of one.

    A tie has label 0, and is certified with neither: both margins must be positive.
    """

    value: float
    probability: bool

    def __post_init__(self) -> None:
        if self.probability and not LEAST <= self.value <= 1 - LEAST:
            raise UsageError(
                f"--threshold is of the probability that the file gives, and lies in {LEAST:g} to {1 - LEAST:g}; received "
                f"{self.value:g}."
            )
        if not math.isfinite(self.value):
            raise UsageError(f"--threshold is a number that float32 holds; received {self.value:g}.")

    @classmethod
    def of(cls, network: Network, said: float | None) -> Threshold:
        """The threshold that was said, else 0.5 of a probability and 0 of a logit."""
        probability = _sigmoid(network)[1]
        value = said if said is not None else 0.5 if probability else 0.0
        with np.errstate(over="ignore"):  # it is compared with float32 numbers, as one of them
            return cls(float(np.float32(value)), probability)

    @property
    def kind(self) -> str:
        """What the output is called."""
        return "probability" if self.probability else "logit"

    def columns(self, y: np.ndarray) -> np.ndarray:
        """The output of the file beside its threshold (n, 2): the greater column is the label, and of a tie the first one."""
        return np.stack([np.full_like(y, np.float32(self.value)), y], axis=1)

    def behind(self, network: Network) -> Network:
        """The network of two logits, ``[t, z]``, whose margins are those of the decision.

        A Sigmoid at the end is a Softmax over ``[0, z]``, and is put so, for what is known of a final Softmax to hold of it: in
        float32 its margins must exceed ``4 k``, ``k = 2^-19`` (``bounds/margins.py``). That covers a Sigmoid that errs by at most
        ``k/2``: ``fl(S(z)) > T`` as soon as ``S(z) > T + k/2``, and so where ``z - t > k/(T (1 - T))``, ``t = log(T/(1 - T))``.
        Half of that is to spare, for the rounding of ``t`` too. Logits are scaled by ``4 T (1 - T)`` therefore.
        """
        network = copy.deepcopy(network)
        graph, root = network.graph.graph, network.graph
        last, _ = _sigmoid(network)
        output = next(n for n in graph.nodes if n.op == "output")

        def put(name: str, op: nn.Module, *args: fx.Node, width: int = 2) -> fx.Node:
            root.add_module(name, op)
            node = graph.create_node("call_module", name, args, name=name)
            node.meta[SHAPE] = (network.inputs[0].shape[0], width)
            return node

        scale, at = 1.0, self.value
        if self.probability:
            scale = 4 * self.value * (1 - self.value)
            at = scale * math.log(self.value / (1 - self.value))
        with graph.inserting_before(output):
            z = put(ROW, ops.Reshape((0, 1)), last, width=1)
            if scale != 1:
                root.register_buffer("binary_scale", torch.tensor(scale))
                constant = graph.create_node("get_attr", "binary_scale", name="binary_scale")
                z = put("binary_scaled", ops.Mul(), z, constant, width=1)
            z = put("binary_pair", ops.Pad((1, 0), value=at), z)
            if self.probability:
                z = put("binary_softmax", nn.Softmax(-1), z)
        output.args = (z,)
        graph.eliminate_dead_code()
        (port,) = network.outputs
        pair = Port(port.name, port.dtype, (network.inputs[0].shape[0], 2))
        return Network(fx.GraphModule(root, graph), network.inputs, (pair,), replace(network.provenance))


def without_threshold(network: Network, given: Network) -> Network:
    """A network as its file has it, the end of ``given`` in place of what ``Threshold.behind`` put there."""
    network = copy.deepcopy(network)
    graph, root = network.graph.graph, network.graph
    named = {n.name: n for n in graph.nodes}
    if ROW not in named:
        return network
    tail, node, (last, _) = [], _returned(given.graph.graph), _sigmoid(given)
    while node is not last:
        tail.append(node)
        (node,) = node.all_input_nodes
    at, output = named[ROW].args[0], next(n for n in graph.nodes if n.op == "output")
    assert isinstance(at, fx.Node)
    with graph.inserting_before(output):
        for old in reversed(tail):
            root.add_submodule(str(old.target), copy.deepcopy(given.graph.get_submodule(str(old.target))))
            at = graph.create_node("call_module", str(old.target), (at,), name=old.name)
            at.meta = dict(old.meta)
    output.args = (at,)
    graph.eliminate_dead_code()
    return Network(fx.GraphModule(root, graph), network.inputs, given.outputs, replace(network.provenance))


def _returned(graph: fx.Graph) -> fx.Node:
    value = next(n for n in graph.nodes if n.op == "output").args[0]
    (node,) = value if isinstance(value, tuple | list) else (value,)
    assert isinstance(node, fx.Node)
    return node


def _sigmoid(network: Network) -> tuple[fx.Node, bool]:
    """The node of the logit, and whether a Sigmoid comes behind it; what only names the entries anew is looked through."""
    end = node = _returned(network.graph.graph)

    def op(node: fx.Node) -> nn.Module | None:
        return network.graph.get_submodule(str(node.target)) if node.op == "call_module" else None

    while isinstance(op(node), IN_ORDER):
        (node,) = node.all_input_nodes
    if isinstance(op(node), nn.Sigmoid):
        return node.all_input_nodes[0], True
    return end, False
