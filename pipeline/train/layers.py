"""Which layers of a graph are hidden and which classify: told by its paths, never by the order of its modules."""

from __future__ import annotations

from torch import nn

from pipeline.core import ops
from pipeline.core.network import Plan, Step
from pipeline.core.ops import AffineBN, Layer
from pipeline.rules import Affine, rule_for

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""``Layer`` as a tuple: the dynamo of torch 2.7 cannot trace isinstance with a union."""


def layer_of(op: nn.Module) -> Layer | None:
    """The layer with weights that an operator is, alone or joined with its BatchNorm; None for any other operator."""
    inner = op.affine if isinstance(op, AffineBN) else op
    return inner if isinstance(inner, LAYERS) else None


def layers(plan: Plan) -> tuple[Step, ...]:
    """The steps that are layers with weights, in the order of the graph."""
    return tuple(s for s in plan.steps if layer_of(s.op) is not None)


def consumers(plan: Plan) -> dict[int, tuple[Step, ...]]:
    """The steps that read each node."""
    found: dict[int, list[Step]] = {i: [] for i in range(plan.size)}
    for step in plan.steps:
        for a in dict.fromkeys(step.args):
            found[a].append(step)
    return {i: tuple(steps) for i, steps in found.items()}


def is_affine(step: Step) -> bool:
    return isinstance(rule_for(step.op), Affine)


def hidden(plan: Plan) -> frozenset[int]:
    """The nodes with a nonlinearity on some path to the logits; a layer that is not among them classifies.

    A Softmax that ends the graph is set aside, as it is for the margins.
    """
    outputs = set(plan.before_softmax()[0].outputs if len(plan.outputs) == 1 else plan.outputs)
    reaches, found = set(outputs), set()
    for step in reversed(plan.steps):
        if step.index not in reaches:
            continue
        for a in step.args:
            reaches.add(a)
            if step.index in found or not is_affine(step):
                found.add(a)
    return frozenset(found)


def first_layers(plan: Plan) -> tuple[Step, ...]:
    """The layers that no other layer precedes."""
    behind: set[int] = set()
    found = []
    for step in plan.steps:
        after = any(a in behind for a in step.args)
        if layer_of(step.op) is not None and not after:
            found.append(step)
        if after or layer_of(step.op) is not None:
            behind.add(step.index)
    return tuple(found)


def varying(plan: Plan) -> frozenset[int]:
    """The nodes that depend on an input."""
    found = set(plan.inputs)
    for step in plan.steps:
        if any(a in found for a in step.args):
            found.add(step.index)
    return frozenset(found)


def follows_sum(plan: Plan, step: Step) -> bool:
    """Whether a sum of two varying values lies between ``step`` and the layers before it, on some path."""
    by_index, varies = {s.index: s for s in plan.steps}, varying(plan)
    pending, seen = list(step.args), set()
    while pending:
        index = pending.pop()
        before = by_index.get(index)
        if index in seen or before is None or layer_of(before.op) is not None:
            continue
        seen.add(index)
        if isinstance(before.op, ops.Add | ops.Sub) and all(a in varies for a in before.args):
            return True
        pending.extend(before.args)
    return False


def feeds_layers_only_directly(plan: Plan, step: Step) -> bool:
    """Whether ``step`` reaches the layers after it on paths without any nonlinearity, and reaches no nonlinearity before."""
    readers = consumers(plan)
    pending, seen, reached = [step.index], set(), False
    while pending:
        for reader in readers[pending.pop()]:
            if reader.index in seen:
                continue
            seen.add(reader.index)
            if layer_of(reader.op) is not None:
                reached = True
            elif not is_affine(reader):
                return False
            else:
                pending.append(reader.index)
    return reached
