"""What a guarantee in float32 rests on besides IEEE operations, measured and assumed errors; files without one are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.bounds.ibp import IntervalWalk
from pipeline.commands.subject import Subject
from pipeline.core.floating_point import unbounded, unmeasured
from pipeline.core.interval import Interval
from pipeline.core.network import Plan
from pipeline.core.outward import Outward
from pipeline.errors import Contradiction, InputRejected
from pipeline.onnx import executed, kernel_table, kernels, subnormal
from pipeline.onnx.executed.graphs import Graph
from pipeline.results import facts as report
from pipeline.rules import rule_for
from pipeline.settings import Settings

INSIDE = {
    "com.microsoft.QuickGelu": (("QuickGelu", "Sigmoid"),),
    "com.microsoft.Gelu": (("ErfInGelu", "Erf"),),
    "com.microsoft.BiasGelu": (("ErfInBiasGelu", "Erf"), ("BiasGelu", "Gelu")),
}
"""By executed operator that contains operators of the file: the measured kernel, and the operator whose error it is."""


@dataclass(frozen=True)
class Kernels:
    """The errors of kernels by operator, as ``rounding_of`` takes them.

    ``build`` is the one they were measured on, ``assumptions`` are sentences for the report, ``note`` says why a stored table was
    ignored.
    """

    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    build: report.KernelErrors | None = None
    assumptions: tuple[str, ...] = ()
    note: str | None = None

    def on(self, execution: report.RuntimeExecution | None) -> report.RuntimeExecution | None:
        """The execution as a report states it: with the build where the verdict rests on measured errors."""
        return execution if execution is None else execution.model_copy(update={"kernels": self.build})


def kernels_of(subject: Subject, settings: Settings) -> Kernels:
    """The errors of the kernels that a file runs, whose outputs are compared bit by bit with the table at some thousand inputs.

    Raises InputRejected (3) naming every kernel without measured errors for this build, EnvironmentFailure (74) where a kernel is
    not the one that was measured.
    """
    if settings.arithmetic != "float32-any-order":
        _bound_blank(subject, Outward(deployed=False))
        return Kernels()
    operators, assumptions = _needed_kernels(subject)
    executes = {op.type for op in subject.executed.graph.operators}
    inside = [(name, of) for kind in INSIDE if kind in executes for name, of in INSIDE[kind] if of in operators]
    operators = (*operators, *(name for name, _ in inside))
    if settings.provider != "cpu" and (operators or assumptions):
        what = (
            f"the float32 kernels of {', '.join(operators)} are"
            if operators
            else "the float32 steps of a normalisation are"
        )
        raise InputRejected(
            f"{what} known for the CPU provider alone, and `--arithmetic float32-any-order` cannot promise them on CUDA; use "
            "`--provider cpu`, or `--arithmetic real`."
        )
    if not operators:
        return Kernels(assumptions=assumptions)
    if unknown := [name for name in operators if name not in kernels.OPERATORS]:
        raise unbounded(*unknown)
    table, note = kernel_table.load()
    if missing := [name for name in operators if name not in table.operators]:
        raise unmeasured(*missing, on=str(table.build))
    kernel_table.spot_check(table, operators)
    errors = table.errors(operators)
    charged = dict(errors)
    for name, of in inside:
        charged[of] = (max(charged[of][0], errors[name][0]), max(charged[of][1], errors[name][1]))
    parts = [
        *(["Softmax: the exponential inside it"] if "Softmax" in errors else []),
        *(f"{name}: the {of} inside it" for name, of in inside),
    ]
    rows = f" ({'; '.join(parts)})" if parts else ""
    return Kernels(
        charged,
        report.KernelErrors(
            runtime_sha256=table.build.runtime_sha256,
            instructions=table.build.instructions,
            libm=table.libm(operators),
            errors=errors,
        ),
        (
            "Kernels err by at most what was measured at every float32 input, by vectors and as the rest of vectors: "
            f"{_listed(errors)}{rows} ({table.build}). Deployed, they are those of this library on these instructions, alone or "
            "fused, wherever a number lies in its tensor. Of another library or processor nothing is promised.",
            *assumptions,
        ),
        note,
    )


def _listed(errors: Mapping[str, tuple[float, float]]) -> str:
    return ", ".join(f"{n} {a:.3g}" + (f" + {r:.3g} |f|" if r else "") for n, (a, r) in errors.items())


class _LookupRecorder(dict[str, tuple[float, float]]):
    """A table of kernel errors that has an entry for every kernel, and records which were looked up."""

    def __contains__(self, name: object) -> bool:
        self.setdefault(str(name), (0.0, 0.0))
        return True


def _needed_kernels(subject: Subject) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The kernels whose errors rules look up between input and logits, and what rules assume of other kernels."""
    lookups: Any = _LookupRecorder()
    plan = _bound_blank(subject, Outward(deployed=True, kernels=lookups))
    rules = [rule for step in plan.steps if (rule := rule_for(step.op)) is not None]
    return tuple(sorted(lookups)), tuple(dict.fromkeys(rule.assumes for rule in rules if rule.assumes))


@torch.no_grad()
def _bound_blank(subject: Subject, rounding: Outward) -> Plan:
    """Bound a batch of zeros by IBP, so that operators without bounds are refused before any data are read; return its plan.

    The batch has two samples where the file takes any number: an axis of length one could be mistaken for the batch axis.
    """
    network = subject.network.in_float64()
    points = [
        torch.zeros(port.shape[0] or 2, *(d or 1 for d in port.shape[1:]), dtype=torch.float64)
        for port in network.inputs
    ]
    plan, _ = network.plan().before_softmax()
    IntervalWalk(network, rounding, plan).boxes([Interval(point, torch.zeros_like(point)) for point in points])
    return plan


def other_build_note(stated: report.RuntimeExecution | None, now: report.RuntimeExecution | None) -> str | None:
    """A note where a report rests on kernels of another build than a repeated proof, else None.

    Raises Contradiction (5) where the build is the same and the report states other errors.
    """
    there, here = (None if execution is None else execution.kernels for execution in (stated, now))
    if there is None or here is None or there == here:
        return None
    if there.model_copy(update={"errors": here.errors}) == here:
        raise Contradiction(
            "The errors of kernels that a report states are those measured on its build; this one states "
            f"{_listed(there.errors)}, and on the same build they are {_listed(here.errors)}. Certify again."
        )
    return (
        f"proofs are repeated with the kernels of another build ({here.runtime_sha256[:12]} on {here.instructions}) than the "
        f"report is about ({there.runtime_sha256[:12]} on {there.instructions}): for that build nothing is proved again"
    )


def require_guarantee(subject: Subject, settings: Settings) -> None:
    """Raise InputRejected (3) where the guarantee of ``float32-any-order`` cannot be given for this file and provider."""
    convolutions = sum(node.op_type == "Conv" for node in subject.file.model.graph.node)
    if settings.arithmetic == "float32-any-order" and settings.provider == "cuda" and convolutions:
        raise InputRejected(
            "on CUDA, no option of ONNX Runtime 1.20 or newer rules out transform convolutions, and this model has "
            f"{convolutions} Conv nodes: float32-any-order cannot be promised there. Use `--arithmetic real` or `--provider cpu`."
        )
    if settings.arithmetic == "float32-any-order":
        subnormal.require(Graph(subject.file.model))
        executed.require(subject.file, subject.executed, [port.name for port in subject.network.outputs])
