"""Small Networks for tests, drawn by hand: neutral names, parameters of both signs, a fixed seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from pipeline.core import ops
from pipeline.core.network import Network, Origin, Port, Provenance, Weight


class Drawing:
    """A Network under construction: ``input``, then calls of modules, then ``finish``; nodes are named n0, n1, ..."""

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        self.root, self.graph, self.ports = nn.Module(), fx.Graph(), []
        self.count = 0

    def _name(self) -> str:
        self.count += 1
        return f"n{self.count - 1}"

    def input(self, *shape: int) -> fx.Node:
        """A placeholder of one sample's shape; the batch is free."""
        name = self._name()
        self.ports.append(Port(name, torch.float32, (None, *shape)))
        return self.graph.placeholder(name)

    def constant(self, value: Tensor) -> fx.Node:
        name = self._name()
        self.root.register_buffer(name, value)
        return self.graph.get_attr(name)

    def __call__(self, op: nn.Module, *args: fx.Node) -> fx.Node:
        name = self._name()
        self.root.add_module(name, op)
        return self.graph.call_module(name, args)

    def finish(self, *outputs: fx.Node, shapes: Sequence[tuple[int | None, ...]] = ((None, None),)) -> Network:
        """The Network, its parameters spread about zero, BatchNorms with statistics and signs of their own."""
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        with torch.no_grad():
            for module in self.root.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                    module.weight.normal_(0.0, 1.0)
                    module.bias.normal_(0.0, 0.3)
                    module.running_mean.normal_(0.0, 0.3)
                    module.running_var.uniform_(0.5, 2.0)
                elif getattr(module, "bias", None) is not None:
                    module.bias.normal_(0.0, 0.1)
        module = fx.GraphModule(self.root, self.graph)
        nodes = {
            n.name: Origin(type(module.get_submodule(n.target)).__name__, f"file/{n.name}", f"{n.name}_out")
            for n in self.graph.nodes
            if n.op == "call_module"
        }
        names = dict(module.named_parameters(remove_duplicate=False))
        weights = {name: Weight(f"file/{name}") for name in names}
        ports = tuple(Port(f"{o.name}_out", torch.float32, s) for o, s in zip(outputs, shapes, strict=True))
        return Network(module, tuple(self.ports), ports, Provenance(nodes=nodes, weights=weights))


def mlp(*widths: int, seed: int = 0, bn: bool = False, bias: bool = True) -> Network:
    """Linear layers of the given widths (12-9-8-5 if none are given) ReLU between; ``bn`` after hidden ones."""
    widths = widths or (12, 9, 8, 5)
    d = Drawing(seed)
    x = d.input(widths[0])
    for i, (a, b) in enumerate(pairwise(widths)):
        x = d(nn.Linear(a, b, bias=bias), x)
        if i < len(widths) - 2:
            x = d(nn.BatchNorm1d(b), x) if bn else x
            x = d(nn.ReLU(), x)
    return d.finish(x, shapes=((None, widths[-1]),))


def conv_net(*, channels: int = 2, size: int = 8, classes: int = 5, seed: int = 0, bn: bool = False) -> Network:
    """conv 8, conv 8 in two groups, fc 16, fc ``classes``, behind a constant normalisation (Sub, Div) of the input."""
    d = Drawing(seed)
    x = d.input(channels, size, size)
    x = d(ops.Sub(), x, d.constant(torch.full((channels, 1, 1), 0.4)))
    x = d(ops.Div(), x, d.constant(torch.full((channels, 1, 1), 0.3)))
    for conv in (
        nn.Conv2d(channels, 8, 3, stride=1, padding=1),
        nn.Conv2d(8, 8, 4, stride=2, padding=1, groups=2),
    ):
        x = d(conv, x)
        x = d(nn.BatchNorm2d(8), x) if bn else x
        x = d(nn.ReLU(), x)
    x = d(nn.Flatten(), x)
    x = d(nn.ReLU(), d(nn.Linear(8 * (size // 2) ** 2, 16), x))
    return d.finish(d(nn.Linear(16, classes), x), shapes=((None, classes),))


def residual_concat_net(*, channels: int = 3, size: int = 6, classes: int = 4, seed: int = 0) -> Network:
    """One residual add, one concat, outputs used twice (the first ReLU's, the sum's), a bias-free Conv and Linear."""
    d = Drawing(seed)
    x = d.input(channels, size, size)
    stem = d(nn.ReLU(), d(nn.Conv2d(channels, 8, 3, padding=1), x))
    branch = d(nn.ReLU(), d(nn.Conv2d(8, 8, 3, padding=1), stem))
    branch = d(nn.Conv2d(8, 8, 3, padding=1), branch)
    joined = d(nn.ReLU(), d(ops.Add(), branch, stem))
    left = d(nn.ReLU(), d(nn.Conv2d(8, 4, 3, stride=2, padding=1), joined))
    right = d(nn.ReLU(), d(nn.Conv2d(8, 4, 1, stride=2, bias=False), joined))
    x = d(ops.Reshape((0, -1)), d(ops.Concat(1), left, right))
    x = d(nn.ReLU(), d(nn.Linear(8 * ((size + 1) // 2) ** 2, 12, bias=False), x))
    return d.finish(d(nn.Linear(12, classes), x), shapes=((None, classes),))
