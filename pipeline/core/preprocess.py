"""Normalisation that a deployment applies outside of the graph, made part of it so that boxes are always in pixels."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx

from pipeline.core import ops
from pipeline.core.floating_point import TINY32
from pipeline.core.network import Network
from pipeline.errors import UsageError

_NAMES = ("mean", "less_mean", "std", "over_std")


@dataclass(frozen=True)
class Normalise:
    """``(x - mean) / std`` per channel, on axis ``channel_axis`` of one sample."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_axis: int = 0

    @classmethod
    def of(cls, mean: tuple[float, ...], std: tuple[float, ...], channel_axis: int) -> Normalise:
        """Of one number for all channels or one a channel, on either side. Raises UsageError."""
        count = max(len(mean), len(std))
        mean, std = (values * count if len(values) == 1 else values for values in (mean, std))
        return cls(mean, std, channel_axis)

    def __post_init__(self) -> None:
        with np.errstate(over="ignore", under="ignore"):
            mean, std = (np.asarray(v, np.float32) for v in (self.mean, self.std))
        if len(mean) != len(std) or not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= TINY32).all()):
            raise UsageError(
                "--mean and --std give one number a channel, which float32 holds, and every std is positive and no subnormal "
                f"number; received {self.mean} and {self.std}."
            )

    def arrays(self, sample_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std in float32, shaped to broadcast over one sample. Raises UsageError (2) for another number of channels."""
        channels = sample_shape[self.channel_axis] if sample_shape else 1
        if len(self.mean) not in (1, channels):
            raise UsageError(
                f"--mean and --std give one number, or one a channel; the model's input {sample_shape} has {channels} channels "
                f"and {len(self.mean)} numbers were given (--layout says which axis of an image holds its channels)."
            )
        shape = [1] * len(sample_shape)
        if len(self.mean) > 1:
            shape[self.channel_axis] = channels
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        return mean, std

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Preprocess a batch in float32, as the deployment does."""
        mean, std = self.arrays(x.shape[1:])
        return (x - mean) / std

    def before(self, network: Network) -> Network:
        """The network over pixels: a copy that begins with Sub and Div by frozen constants, bounded like any operator.

        The certificate then covers this preprocessing in float32 too, with the rounding of both operators.
        """
        network = copy.deepcopy(network)
        module, graph = network.graph, network.graph.graph
        mean, std = self.arrays(tuple(d or 1 for d in network.inputs[0].shape[1:]))
        module.register_buffer("mean", torch.from_numpy(mean))
        module.register_buffer("std", torch.from_numpy(std))
        module.add_module("less_mean", ops.Sub())
        module.add_module("over_std", ops.Div())
        placeholder = next(n for n in graph.nodes if n.op == "placeholder")
        readers = list(placeholder.users)
        after_inputs = [n for n in graph.nodes if n.op == "placeholder"][-1]
        with graph.inserting_after(after_inputs):
            mean_node = graph.create_node("get_attr", "mean", name="mean")
        with graph.inserting_after(mean_node):
            less = graph.create_node("call_module", "less_mean", (placeholder, mean_node), name="less_mean")
        with graph.inserting_after(less):
            std_node = graph.create_node("get_attr", "std", name="std")
        with graph.inserting_after(std_node):
            over = graph.create_node("call_module", "over_std", (less, std_node), name="over_std")
        for reader in readers:
            reader.replace_input_with(placeholder, over)
        return _rebuild(network, graph)


def without_normalisation(network: Network) -> Network:
    """A copy of the network without the operators that ``Normalise.before`` added."""
    network = copy.deepcopy(network)
    graph = network.graph.graph
    nodes = {n.name: n for n in graph.nodes if n.name in _NAMES}
    if set(nodes) != set(_NAMES):
        return network
    placeholder = nodes["less_mean"].args[0]
    assert isinstance(placeholder, fx.Node)
    nodes["over_std"].replace_all_uses_with(placeholder)
    for name in reversed(_NAMES):
        graph.erase_node(nodes[name])
    for name in _NAMES:
        delattr(network.graph, name)
    return _rebuild(network, graph)


def _rebuild(network: Network, graph: fx.Graph) -> Network:
    module = fx.GraphModule(network.graph, graph)
    return Network(module, network.inputs, network.outputs, replace(network.provenance))
