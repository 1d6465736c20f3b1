"""The descriptive parts of a report, made from the objects of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import torch

from pipeline import package
from pipeline.certify import PGD, Strategy
from pipeline.commands.features import NamedRadii
from pipeline.commands.guarantee import Kernels
from pipeline.commands.subject import Subject
from pipeline.core.joined import Joined
from pipeline.core.network import Port
from pipeline.data import Dataset, Fitted, without_folders
from pipeline.results import facts as report
from pipeline.results.result import Run
from pipeline.results.statements import ASSUMPTIONS, SAMPLES, region_of
from pipeline.results.threat import Threat
from pipeline.settings import Settings

Dims = Callable[[str, tuple[int | None, ...]], tuple[int | str | None, ...]]
"""``dims(name, fallback)``: the shape that the file declares for an input, or the fallback."""


def version_of(name: str) -> str:
    """The version of an installed distribution, or ``unknown``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def tool() -> report.Tool:
    """This program and its version."""
    return report.Tool(name="pipeline", version=package.version())


def model(subject: Subject) -> report.Model:
    """The delivered file: digests of its bytes, its graph and its weights, and its declarations."""
    file, proto, digests = subject.file, subject.file.model, subject.file.digests
    (entry,), (exit_,) = subject.network.inputs, subject.imported.network.outputs
    declared = {v.name: v for v in proto.graph.input}

    def dims(name: str, fallback: tuple[int | None, ...]) -> tuple[int | str | None, ...]:
        if name not in declared:
            return fallback
        shape = declared[name].type.tensor_type.shape.dim
        if len(shape) < len(fallback):  # a file without a batch axis, to which the import adds one
            return fallback
        return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in shape)

    parameters = {id(p): p.numel() for p in subject.imported.network.parameters()}
    return report.Model(
        file=file.path.name,
        sha256=digests.sha256,
        bytes=len(file.content),
        external_data=file.external_data,
        structure_sha256=digests.structure_sha256,
        weights_sha256=digests.weights_sha256,
        ir_version=proto.ir_version,
        opsets={o.domain or "ai.onnx": o.version for o in proto.opset_import},
        input=report.Input(name=entry.name, dtype="float32", shape=dims(entry.name, entry.shape)),
        inputs=None if subject.joined is None else inputs_of(subject.joined, dims),
        output=report.Output(
            name=exit_.name,
            shape=exit_.shape,
            kind=_kind(subject),
            classes=subject.classes,
            threshold=subject.threshold.value if subject.threshold else None,
        ),
        parameters=sum(parameters.values()),
        ops=dict(Counter(n.op_type for n in proto.graph.node)),
        metadata=file.metadata,
    )


def inputs_of(joined: Joined, dims: Dims) -> tuple[report.InputUse, ...]:
    """The use of each input: perturbed, read with each sample, or constant."""
    constants = {**joined.constants, **joined.alike}

    def use(port: Port) -> Literal["perturbed", "data", "constant"]:
        return "perturbed" if port.name == joined.perturbed else "constant" if port.name in constants else "data"

    return tuple(
        report.InputUse(
            name=port.name,
            dtype=str(port.dtype).removeprefix("torch."),
            shape=dims(port.name, port.shape),
            use=use(port),
            value=tuple(constants[port.name].ravel().tolist()) if port.name in constants else None,
        )
        for port in joined.ports
    )


def _kind(subject: Subject) -> str:
    if subject.threshold is not None:
        return subject.threshold.kind
    return "softmax" if subject.network.plan().before_softmax()[1] is not None else "logits"


def preprocessing(subject: Subject, fitted: Fitted, source: dict[str, str]) -> report.Preprocessing:
    """How a stored value becomes the model's input, and where these settings come from."""
    sources = sorted({source[k] for k in ("mean", "std", "range", "layout") if k in source})
    return report.Preprocessing(
        source=" and ".join(sources) or "none given: pixels go in as they are",
        range=fitted.value_range,
        mean=subject.normalise.mean if subject.normalise else None,
        std=subject.normalise.std if subject.normalise else None,
        layout=_layout(subject, fitted),
        notes=fitted.notes,
    )


def _layout(subject: Subject, fitted: Fitted) -> str:
    """The order of axes: where there are several means, that of the axis along which they apply."""
    normalise = subject.normalise
    if fitted.layout == "flat" or normalise is None or len(normalise.mean) == 1:
        return fitted.layout
    return "NHWC" if normalise.channel_axis else "NCHW"


def data(dataset: Dataset, evaluated: int, limit: int | None, seed: int, notes: Sequence[str] = ()) -> report.Data:
    """The data set, its part, and the selection of samples."""
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


def threat(settings: Settings, fitted: Fitted, radii: NamedRadii | None) -> Threat:
    """The threat model: how far an attacker may change a sample."""
    if radii is None:
        return Threat(norm=settings.norm, range=fitted.value_range)
    features = radii.to_report()
    clip = features.low is not None or features.high is not None
    return Threat(norm=settings.norm, space="feature", range=fitted.value_range, clip=clip, features=features)


def method(subject: Subject, settings: Settings, strategy: Strategy, kernels: Kernels, threat: Threat) -> report.Method:
    """How samples were certified, and the statement that a certificate makes."""
    execution = kernels.on(subject.executed.execution)
    return report.Method(
        bounds=strategy.methods,
        requested=settings.method,
        dtype="float64",
        arithmetic=settings.arithmetic,
        assumptions=(*ASSUMPTIONS[settings.arithmetic], *kernels.assumptions, *subject.assumptions),
        statement=SAMPLES[settings.arithmetic].format(region=region_of(threat), execution=execution),
        attack=_attack(strategy.attack),
        long_attack=_attack(strategy.long_attack),
        memory_budget=settings.memory_budget,
        max_domains=strategy.most_domains,
        provider=settings.provider,
        execution=execution,
    )


def _attack(pgd: PGD | None) -> report.Attack | None:
    if pgd is None:
        return None
    return report.Attack(
        name="pgd", steps=pgd.steps, restarts=pgd.restarts, step_size=f"{pgd.step:g} eps", loss=pgd.loss, seed=pgd.seed
    )


def versions() -> dict[str, str]:
    """The versions of this program and of the libraries that compute."""
    others = {name: version_of(name) for name in ("torch", "numpy")}
    return {"pipeline": package.version(), **others, "onnxruntime": _onnxruntime()}


def run(
    started: datetime,
    argv: Sequence[str],
    device: str,
    timings: dict[str, float],
    stopped_by: str | None = None,
    parity_seed: int | None = None,
) -> Run:
    """The volatile part of a report: when, where and how long the run was."""
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
    gpu = version_of("onnxruntime-gpu")
    return f"{gpu} (gpu build)" if gpu != "unknown" else version_of("onnxruntime")
