"""Where the rules of the batch axis are enrolled, by operator."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.onnx.batch.axis import BatchAxis
from pipeline.onnx.operators import TABLE

Rule = Callable[..., BatchAxis]
"""The batch axis of an operator's results, from the ``BatchTrace`` so far and its node.

Raises Untraceable where samples influence each other or cannot be tracked."""
RULES: dict[str, Rule] = {}


def batch_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of operators. Raises KeyError where one has a rule already."""

    def register(rule: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise KeyError(f"an operator has one rule; {name} has one already")
            RULES[name] = rule
        return rule

    return register


POINTWISE = "pointwise"
"""The key, in ``RULES``, of the rule that all operators marked pointwise in the table of operators share."""


def rule_of(operator: str) -> Rule | None:
    """The rule of an operator, None where it has none."""
    entry = TABLE.get(operator)
    return RULES.get(POINTWISE if entry is not None and entry.pointwise else operator)
