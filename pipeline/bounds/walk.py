"""The one walker. What the values are, and so what the walk computes, is the caller's choice.

A plain loop over a precomputed plan: torch.compile enters it whole, where it breaks at every node of ``fx.Interpreter``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from torch import Tensor

from pipeline.core.network import Plan, Step


class Everything:
    """A container of every index: nothing is freed on the way."""

    def __contains__(self, index: object) -> bool:
        return True


EVERYTHING = Everything()


def forward(
    plan: Plan,
    inputs: Sequence[Any],
    apply: Callable[..., Any],
    *,
    keep: Container[int] = (),
) -> list[Any]:
    """The value of every node, ``apply(step, *values)`` where an input is abstract and ``step.op(*values)`` where none is.

    A value is dropped (its entry becomes None) after its last use unless it is an output or in ``keep``.
    """
    values: list[Any] = [None] * plan.size
    for index, value in zip(plan.inputs, inputs, strict=True):
        values[index] = value
    for index, owner, name in plan.constants:
        values[index] = getattr(owner, name)
    for step in plan.steps:
        args = [values[a] for a in step.args]
        concrete = all(isinstance(a, Tensor) for a in args)
        values[step.index] = step.op(*args) if concrete else apply(step, *args)
        for a in step.frees:
            if a not in keep:
                values[a] = None
    return values


def backward(
    plan: Plan, forms: Mapping[int, Any], visit: Callable[[Step, Any], Sequence[Any] | None], merge: Callable[..., Any]
) -> dict[int, Any]:
    """Push forms from nodes towards the inputs; ``visit(step, form)`` gives one form per argument, or None to stop.

    Returns the forms at the nodes where the walk stopped: the frontier. ``merge(index, a, b)`` joins two forms that meet.
    """
    pending, frontier = {**forms}, {}
    for step in reversed(plan.steps):
        if step.index not in pending:
            continue
        here = pending.pop(step.index)
        pulled = visit(step, here)
        if pulled is None:
            frontier[step.index] = here
            continue
        for index, part in zip(step.args, pulled, strict=True):
            if part is not None:
                pending[index] = part if index not in pending else merge(index, pending[index], part)
    return {**frontier, **pending}
