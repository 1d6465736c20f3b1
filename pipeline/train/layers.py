"""Which layers of a graph are hidden and which classify, by the paths of the graph, not the order of modules; their zeros."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.network import Network, Plan, Step
from pipeline.core.ops import AffineBN, Layer
from pipeline.rules import Affine, rule_for

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""``Layer`` as a tuple: the dynamo of torch 2.7 cannot trace isinstance with a union."""


def layer_of(op: nn.Module) -> Layer | None:
    """An operator's layer with weights, alone or joined with its BatchNorm; None for any other operator."""
    inner = op.affine if isinstance(op, AffineBN) else op
    return inner if isinstance(inner, LAYERS) else None


def layers(plan: Plan) -> tuple[Step, ...]:
    """The steps that are layers with weights, in the order of the graph."""
    return tuple(s for s in plan.steps if layer_of(s.op) is not None)


def consumers(plan: Plan) -> dict[int, tuple[Step, ...]]:
    """The steps that read each node, by its index."""
    readers: dict[int, list[Step]] = {i: [] for i in range(plan.size)}
    for step in plan.steps:
        for a in dict.fromkeys(step.args):
            readers[a].append(step)
    return {i: tuple(steps) for i, steps in readers.items()}


def is_affine(step: Step) -> bool:
    return isinstance(rule_for(step.op), Affine)


def hidden(plan: Plan) -> frozenset[int]:
    """The nodes with a nonlinearity on some path to the logits; a layer that is not among them classifies.

    A Softmax at the end of the graph does not count, as it does not for margins.
    """
    outputs = set(plan.before_softmax()[0].outputs if len(plan.outputs) == 1 else plan.outputs)
    reaching, nodes = set(outputs), set()
    for step in reversed(plan.steps):
        if step.index not in reaching:
            continue
        for a in step.args:
            reaching.add(a)
            if step.index in nodes or not is_affine(step):
                nodes.add(a)
    return frozenset(nodes)


def first_layers(plan: Plan) -> tuple[Step, ...]:
    """The layers that no other layer precedes."""
    behind: set[int] = set()
    first = []
    for step in plan.steps:
        after = any(a in behind for a in step.args)
        if layer_of(step.op) is not None and not after:
            first.append(step)
        if after or layer_of(step.op) is not None:
            behind.add(step.index)
    return tuple(first)


def varying(plan: Plan) -> frozenset[int]:
    """The nodes that depend on an input."""
    nodes = set(plan.inputs)
    for step in plan.steps:
        if any(a in nodes for a in step.args):
            nodes.add(step.index)
    return frozenset(nodes)


def follows_sum(plan: Plan, step: Step) -> bool:
    """Whether a sum of two varying values lies between ``step`` and the layers before it, on some path."""
    by_index, varies = {s.index: s for s in plan.steps}, varying(plan)
    pending, visited = list(step.args), set()
    while pending:
        index = pending.pop()
        before = by_index.get(index)
        if index in visited or before is None or layer_of(before.op) is not None:
            continue
        visited.add(index)
        if isinstance(before.op, ops.Add | ops.Sub) and all(a in varies for a in before.args):
            return True
        pending.extend(before.args)
    return False


def feeds_layers_only_directly(plan: Plan, step: Step) -> bool:
    """Whether ``step`` reaches a layer after it, and every path to the next layers is free of nonlinearities."""
    readers = consumers(plan)
    pending, visited, reaches_layer = [step.index], set(), False
    while pending:
        for reader in readers[pending.pop()]:
            if reader.index in visited:
                continue
            visited.add(reader.index)
            if layer_of(reader.op) is not None:
                reaches_layer = True
            elif not is_affine(reader):
                return False
            else:
                pending.append(reader.index)
    return reaches_layer


def masks(network: Network) -> dict[str, Tensor]:
    """For each layer's weight with zeros, by its name: a mask that is zero where the weight is exactly zero, else one."""
    names = {id(p): n for n, p in network.graph.named_parameters()}
    weights = [layer.weight for s in layers(network.plan()) if (layer := layer_of(s.op)) is not None]
    by_name = {names[id(w)]: (w.detach() != 0).to(w.dtype) for w in weights if id(w) in names}
    return {name: mask for name, mask in by_name.items() if not bool(mask.all())}


def rescale(mask: Tensor, power: float) -> Tensor:
    """The factor of an initial weight: zero where the mask is, else ``(n / k)^power`` in a row with ``k`` of ``n`` entries."""
    count = mask.flatten(1).sum(1).clamp(min=1)
    return mask * ((mask[0].numel() / count) ** power).reshape(-1, *[1] * (mask.dim() - 1))
