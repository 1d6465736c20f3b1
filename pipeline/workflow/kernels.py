"""Which measured kernel errors a file needs, and what a report says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.arithmetic import Outward, unbounded, unmeasured
from pipeline.bounds import Interval
from pipeline.graph import kernel_table, kernels
from pipeline.propagate.interval import IntervalWalk
from pipeline.settings import Settings
from pipeline.workflow.subject import Subject


@dataclass(frozen=True)
class Kernels:
    """Errors by operator, as ``rounding_of`` takes them; the assumptions they are, in words; why a table was ignored."""

    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    note: str | None = None


def measured(subject: Subject, settings: Settings) -> Kernels:
    """The errors of the activation kernels that a file runs, each compared with its kernel at some thousand inputs.

    Raises InputRejected (3) naming every kernel that was not measured here, EnvironmentFailure (74) where one errs by more
    than its table says.
    """
    needed = _needed(subject) if settings.arithmetic == "float32-any-order" else ()
    if not needed:
        return Kernels()
    if beyond := [name for name in needed if name not in kernels.OPERATORS]:
        raise unbounded(*beyond)
    # What was measured is the CPU provider.
    table, note = kernel_table.load() if settings.provider == "cpu" else (None, None)
    missing = [name for name in needed if table is None or name not in table.operators]
    if table is None or missing:
        raise unmeasured(*missing)
    kernel_table.spot_check(table, needed)
    machine = table.machine
    errors = {name: table.errors[name] for name in needed}
    said = ", ".join(f"{n} {a:.3g}" + (f" + {r:.3g} |f|" if r else "") for n, (a, r) in errors.items())
    return Kernels(
        errors,
        (
            f"Activation kernels err by at most what was measured at every float32 input: {said} (ONNX Runtime "
            f"{machine.onnxruntime} on CPU, {machine.processor}, error table {table.digest[:12]}); deployed, they are "
            "those of the same build on the same instruction set, alone or fused.",
        ),
        note,
    )


class _Asked(dict[str, tuple[float, float]]):
    """A table that has everything, and remembers what it was asked for."""

    def __contains__(self, name: object) -> bool:
        self.setdefault(str(name), (0.0, 0.0))
        return True


@torch.no_grad()
def _needed(subject: Subject) -> tuple[str, ...]:
    """The kernels that rules ask for on the way from a point to the logits."""
    asked: Any = _Asked()
    network = subject.network.in_float64()
    points = [torch.zeros(*(d or 1 for d in port.shape), dtype=torch.float64) for port in network.inputs]
    plan, _ = network.plan().before_softmax()
    walk = IntervalWalk(network, Outward(deployed=True, kernels=asked), plan)
    walk.boxes([Interval(point, torch.zeros_like(point)) for point in points])
    return tuple(sorted(asked))
