"""Which nodes of a Network have no rule: all of them are named before certify or retrain starts."""

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
    """The nodes that bounds cannot cross; a node none of whose inputs varies, and a final Softmax, are never among them."""
    plan, _ = network.plan().before_softmax()
    varies = [False] * plan.size
    for i in plan.inputs:
        varies[i] = True
    found = []
    for step in plan.steps:
        abstract = tuple(varies[a] for a in step.args)
        varies[step.index] = any(abstract)
        if not any(abstract):
            continue
        rule = rule_for(step.op)
        reason = "it has no rule yet" if rule is None else rule.refuses(step.op, abstract)
        if reason is not None:
            found.append(UnsupportedNode(step.name, type(step.op).__name__, reason))
    return tuple(found)


def require(network: Network) -> None:
    """Raise InputRejected naming every node that has no rule, and for a network without nodes."""
    plan, _ = network.plan().before_softmax()
    if not plan.steps:
        raise InputRejected(
            "A network computes its logits; those of this one are its input itself. Export the network with its layers."
        )
    found = unsupported(network)
    if not found:
        return
    counts = ", ".join(f"{n} x {op}" for op, n in sorted(Counter(u.operator for u in found).items()))
    lines = "\n".join(f"  {network.origin(u.name)}: {u.reason}" for u in found[:20])
    more = f"\n  and {len(found) - 20} more" if len(found) > 20 else ""
    raise InputRejected(
        f"bounds need a rule for every operator that the input reaches; {len(found)} nodes have none ({counts}):\n"
        f"{lines}{more}\nRun `pipeline inspect` for the whole table."
    )
