"""What a verdict guarantees: a statement by mode of arithmetic, its assumptions (errors of kernels among them), its refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.bounds.ibp import IntervalWalk
from pipeline.choices import Mode
from pipeline.commands.subject import Subject
from pipeline.core.interval import Interval
from pipeline.core.rounding import Outward, unbounded, unmeasured
from pipeline.errors import InputRejected
from pipeline.onnx import executed, kernel_table, kernels
from pipeline.settings import Settings


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


SAMPLES: dict[Mode, str] = {
    "float32-any-order": (
        "For every certified sample and every real input in its {region}, this ONNX file gives the sample's label: in exact real "
        "arithmetic; in every float32 evaluation of its own graph, operator by operator, in which each affine output is computed "
        "by IEEE round-to-nearest operations in any order, with or without FMA, flush-to-zero allowed, folding of BatchNorm, "
        "scale and bias allowed; and as executed by {execution}, each of whose rewritings of the file is accounted for."
    ),
    "real": (
        "For every certified sample and every real input in its {region}, the network of this ONNX file evaluated in exact real "
        "arithmetic gives the sample's label. Bounds include the rounding of this tool. Nothing is promised about float32 "
        "execution."
    ),
    "none": "Bounds without any account of rounding, for comparisons of speed: nothing is certified.",
}
"""Of a certification; ``region`` is what a threat allows around a sample, ``execution`` what runs the file."""

PROPERTY: dict[Mode, str] = {
    "float32-any-order": (
        "For every real input of every box, and for the float32 nearest to it, this ONNX file gives outputs outside the unsafe "
        "set: in exact real arithmetic, in every float32 evaluation of its own graph, operator by operator, in any order of IEEE "
        "operations, and as executed by {execution}, each of whose rewritings of the file is accounted for."
    ),
    "real": (
        "For every real input of every box, the network of this ONNX file in exact real arithmetic stays outside the unsafe set."
    ),
    "none": "Bounds without any account of rounding: nothing is proved.",
}
"""Of a property that holds."""


_FOLDED = "Expressions of constants alone have the values that ONNX Runtime gives them in float32."
ASSUMPTIONS: dict[Mode, tuple[str, ...]] = {
    "float32-any-order": (
        "Covered: ONNX Runtime on CPU with float32 kernels; CUDA with TF32 and transform convolutions off.",
        "Not covered: TF32, bfloat16 and float16 fast modes, Winograd and FFT convolutions, INT8, TensorRT, faulty hardware.",
        "The float64 matrix products of this machine are IEEE operations in some order; a self-test ran before the bounds.",
        _FOLDED,
    ),
    "real": (
        "The float64 matrix products of this machine are IEEE operations in some order; libm errs by at most 4 ulp.",
        _FOLDED,
    ),
    "none": (),
}
"""Of both, beside those about measured kernels."""


def refuse_unpromised(subject: Subject, settings: Settings) -> None:
    """Raise InputRejected where nothing makes the promise of the mode true of this file on the provider asked for."""
    convolutions = sum(node.op_type == "Conv" for node in subject.file.model.graph.node)
    if settings.arithmetic == "float32-any-order" and settings.provider == "cuda" and convolutions:
        raise InputRejected(
            "on CUDA, no option of ONNX Runtime 1.20 or newer rules out transform convolutions, and this model has "
            f"{convolutions} Conv nodes: float32-any-order cannot be promised there. Use `--arithmetic real` or `--provider cpu`."
        )
    if settings.arithmetic == "float32-any-order":
        executed.require(subject.file, subject.executed, [port.name for port in subject.network.outputs])
