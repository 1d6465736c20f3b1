"""Runs a Network operator by operator; one that fails is refused by the name that the file has for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from pipeline.core.interval import Interval
from pipeline.core.network import Network, Plan, Step
from pipeline.errors import InputRejected, out_of_memory


@contextmanager
def running(network: Network, step: Step, args: Sequence[Interval | Tensor]) -> Iterator[None]:
    """Context in which one operator is computed on ``args``. Raises InputRejected, by its name in the file, where that fails."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if out_of_memory(error):
            raise
        # torch's own message speaks of its operators, and of names that the file does not have.
        values = [a.center if isinstance(a, Interval) else a for a in args]
        shapes = " and ".join(f"shape {list(v.shape)}" for v in values)
        raise InputRejected(
            f"Every operator of the imported network must run where ONNX Runtime runs it; {network.origin(step.name)} does not,"
            f" on values of {shapes}. Write that node in another form, export the model with fixed sizes, or ask for support"
            " of this file."
        ) from error


def run(network: Network, plan: Plan, xs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a network, whose plan is ``plan``. Raises InputRejected where an operator fails."""
    values: dict[int, Tensor] = {index: getattr(owner, name) for index, owner, name in plan.constants}
    values |= zip(plan.inputs, xs, strict=True)
    for step in plan.steps:
        args = [values[a] for a in step.args]
        with running(network, step, args):
            values[step.index] = step.op(*args)
        for a in step.frees:
            del values[a]
    return [values[i] for i in plan.outputs]


def incomparable(network: Network, error: Exception) -> InputRejected:
    """The error for a file whose comparison with its import fails outside of any one operator."""
    plan = network.plan()
    computed = ", ".join(network.origin(plan.names[i]) for i in plan.outputs)
    return InputRejected(
        f"The import must compare with ONNX Runtime node by node; its nodes up to {computed} do not ({type(error).__name__})."
        " Export the model with fixed sizes, or ask for support of this file."
    )
