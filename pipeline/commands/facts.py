"""From what was done to what a report says of it; the errors of kernels that it rests on, and what cannot be promised at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from pipeline.bounds.ibp import IntervalWalk
from pipeline.certify import PGD, Strategy
from pipeline.commands.subject import Subject
from pipeline.core.interval import Interval
from pipeline.core.rounding import Outward, unbounded, unmeasured
from pipeline.data import Dataset, Fitted, without_folders
from pipeline.errors import InputRejected
from pipeline.onnx import executed, kernel_table, kernels, subnormal
from pipeline.onnx.executed.graphs import Graph
from pipeline.results import facts as report
from pipeline.results.result import Run
from pipeline.results.statements import ASSUMPTIONS, SAMPLES
from pipeline.settings import Settings


def version_of(name: str) -> str:
    """The version of an installed distribution, ``unknown`` where it is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def tool() -> report.Tool:
    """This program and its version."""
    return report.Tool(name="pipeline", version=version_of("pipeline"))


def model(subject: Subject) -> report.Model:
    """The delivered file: digests of its bytes, its graph and its weights, and what it declares."""
    file, proto, found = subject.file, subject.file.model, subject.file.digests
    (entry,), (exit_,) = subject.network.inputs, subject.network.outputs
    declared = {v.name: v for v in proto.graph.input}

    def dims(name: str, fallback: tuple[int | None, ...]) -> tuple[int | str | None, ...]:
        if name not in declared:
            return fallback
        shape = declared[name].type.tensor_type.shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in shape)

    parameters = {id(p): p.numel() for p in subject.imported.network.parameters()}
    return report.Model(
        file=file.path.name,
        sha256=found.sha256,
        bytes=len(file.content),
        external_data=file.external_data,
        structure_sha256=found.structure_sha256,
        weights_sha256=found.weights_sha256,
        ir_version=proto.ir_version,
        opsets={o.domain or "ai.onnx": o.version for o in proto.opset_import},
        input=report.Input(name=entry.name, dtype="float32", shape=dims(entry.name, entry.shape)),
        output=report.Output(
            name=exit_.name,
            shape=exit_.shape,
            kind="softmax" if subject.network.plan().before_softmax()[1] is not None else "logits",
            classes=subject.classes,
        ),
        parameters=sum(parameters.values()),
        ops=dict(Counter(n.op_type for n in proto.graph.node)),
        metadata=file.metadata,
    )


def preprocessing(subject: Subject, fitted: Fitted, source: dict[str, str]) -> report.Preprocessing:
    """How a stored value becomes the model's input, and what said so."""
    said = sorted({source[k] for k in ("mean", "std", "range", "layout") if k in source})
    return report.Preprocessing(
        source=" and ".join(said) or "none given: pixels go in as they are",
        range=fitted.value_range,
        mean=subject.normalise.mean if subject.normalise else None,
        std=subject.normalise.std if subject.normalise else None,
        layout=fitted.layout,
        notes=fitted.notes,
    )


def data(dataset: Dataset, evaluated: int, limit: int | None, seed: int, notes: Sequence[str] = ()) -> report.Data:
    """Which samples, of which part of what."""
    return report.Data(
        uri=without_folders(dataset.uri),
        part=dataset.part,
        sha256=dataset.digest,
        n_total=len(dataset),
        n_evaluated=evaluated,
        selection=report.Selection(
            method="random" if limit else "all", seed=seed if limit else None, max_samples=limit
        ),
        class_names=dataset.class_names,
        notes=tuple(notes),
    )


def method(subject: Subject, settings: Settings, how: Strategy, kernels: tuple[str, ...] = ()) -> report.Method:
    """How samples were certified, and what certified means."""
    region, ran = "box" if settings.norm == "linf" else "Euclidean ball", subject.executed.execution
    return report.Method(
        bounds=how.methods,
        requested=settings.method,
        dtype="float64",
        arithmetic=settings.arithmetic,
        assumptions=(*ASSUMPTIONS[settings.arithmetic], *kernels),
        statement=SAMPLES[settings.arithmetic].format(region=region, execution=ran),
        attack=_attack(how.attack),
        long_attack=_attack(how.long_attack),
        memory_budget=settings.memory_budget,
        provider=settings.provider,
        execution=ran,
    )


def _attack(pgd: PGD | None) -> report.Attack | None:
    if pgd is None:
        return None
    return report.Attack(
        name="pgd", steps=pgd.steps, restarts=pgd.restarts, step_size=f"{pgd.step:g} eps", loss=pgd.loss, seed=pgd.seed
    )


def versions() -> dict[str, str]:
    """This program and what it computes with."""
    return {name: version_of(name) for name in ("pipeline", "torch", "numpy")} | {"onnxruntime": _onnxruntime()}


def run(
    started: datetime,
    argv: Sequence[str],
    device: str,
    timings: dict[str, float],
    stopped_by: str | None = None,
    parity_seed: int | None = None,
) -> Run:
    """When, where and how long: what differs from run to run."""
    seconds = (datetime.now(UTC) - started).total_seconds()
    host: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        **{name: version_of(name) for name in ("torch", "onnx", "onnx2torch", "numpy")},
        "onnxruntime": _onnxruntime(),
    }
    return Run(
        started=started.isoformat(timespec="seconds"),
        seconds=seconds,
        argv=tuple(argv),
        host=host,
        timings=timings,
        stopped_by=stopped_by,
        parity_seed=parity_seed,
    )


def _onnxruntime() -> str:
    found = version_of("onnxruntime-gpu")
    return f"{found} (gpu build)" if found != "unknown" else version_of("onnxruntime")


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


def refuse_unpromised(subject: Subject, settings: Settings) -> None:
    """Raise InputRejected where nothing makes the promise of the mode true of this file on the provider asked for."""
    convolutions = sum(node.op_type == "Conv" for node in subject.file.model.graph.node)
    if settings.arithmetic == "float32-any-order" and settings.provider == "cuda" and convolutions:
        raise InputRejected(
            "on CUDA, no option of ONNX Runtime 1.20 or newer rules out transform convolutions, and this model has "
            f"{convolutions} Conv nodes: float32-any-order cannot be promised there. Use `--arithmetic real` or `--provider cpu`."
        )
    if settings.arithmetic == "float32-any-order":
        subnormal.require(Graph(subject.file.model))
        executed.require(subject.file, subject.executed, [port.name for port in subject.network.outputs])
