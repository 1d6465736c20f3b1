"""The nodes of a Network that have no rule: all are named before certification or training starts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pipeline.core.network import Network
from pipeline.errors import InputRejected
from pipeline.rules.rule import rule_for


@dataclass(frozen=True)
class UnsupportedNode:
    """One node without a sound rule: its neutral name, its operator, and why."""

    name: str
    operator: str
    reason: str


def unsupported(network: Network) -> tuple[UnsupportedNode, ...]:
    """The nodes that bounds cannot pass, apart from those with constant inputs alone, and a final Softmax."""
    plan, _ = network.plan().before_softmax()
    varies = [False] * plan.size
    for i in plan.inputs:
        varies[i] = True
    nodes = []
    for step in plan.steps:
        abstract = tuple(varies[a] for a in step.args)
        varies[step.index] = any(abstract)
        if not any(abstract):
            continue
        rule = rule_for(step.op)
        reason = "it has no rule yet" if rule is None else rule.refuses(step.op, abstract)
        if reason is not None:
            nodes.append(UnsupportedNode(step.name, type(step.op).__name__, reason))
    return tuple(nodes)


def require(network: Network) -> None:
    """Raise InputRejected (3), naming the nodes that have no rule, or for a network without nodes."""
    plan, _ = network.plan().before_softmax()
    if not plan.steps:
        raise InputRejected(
            "A network computes its logits; those of this one are its input itself. Export the network with its layers."
        )
    nodes = unsupported(network)
    if not nodes:
        return
    counts = ", ".join(f"{n} x {op}" for op, n in sorted(Counter(u.operator for u in nodes).items()))
    lines = "\n".join(f"  {network.origin(u.name)}: {u.reason}" for u in nodes[:20])
    more = f"\n  and {len(nodes) - 20} more" if len(nodes) > 20 else ""
    raise InputRejected(
        f"bounds need a rule for every operator that the input reaches; {len(nodes)} nodes have none ({counts}):\n"
        f"{lines}{more}\nRun `pipeline inspect` for the whole table."
    )
