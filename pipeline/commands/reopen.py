"""Reopens the data and the model of a report, as they were certified, and checks that they are the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audit.audit import differing
from pipeline.audit.findings import Findings
from pipeline.commands import facts
from pipeline.commands.features import VALID_RANGE
from pipeline.commands.subject import Subject, open_model
from pipeline.commands.training import ASIDE
from pipeline.data import Dataset, fit, hold_out, load, select, several
from pipeline.errors import Contradiction, InputRejected, UsageError
from pipeline.onnx import digest, model_file
from pipeline.onnx.model_file import ModelFile
from pipeline.render import Pictures, thumbnails
from pipeline.results import FileDigest, Result, Samples, read, read_samples
from pipeline.settings import Settings, settled


def settings(result: Result) -> Settings:
    """The settings of a report's run, as far as it states them. Raises InputRejected (3) for invalid ones."""
    preprocessing, method = result.preprocessing, result.method
    values = {
        "norm": result.threat.norm,
        "eps": tuple(level.exact for level in result.levels),
        "range": preprocessing.range,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "layout": preprocessing.layout if preprocessing.layout in ("NCHW", "NHWC") else None,
        "input": next((i.name for i in result.model.inputs or () if i.use == "perturbed"), None),
        "constants": {i.name: i.value or () for i in result.model.inputs or () if i.use == "constant"},
        "output": result.model.output.name,
        "threshold": result.model.output.threshold,
        "arithmetic": method.arithmetic,
        "attack": method.attack is not None,
        "provider": method.provider,
        **({} if method.execution is None else {"runtime_optimization": method.execution.optimization}),
    }
    try:
        return settled(values, dict.fromkeys(values, "report.json"))
    except UsageError as error:
        raise InputRejected(str(error)) from error


def subject(file: ModelFile, result: Result) -> Subject:
    """The model, imported with the settings of the report. Raises what ``open_model`` does."""
    return open_model(file, settings(result))


def dataset(result: Result, uri: str | Dataset | None, *, download: bool = False) -> Dataset:
    """The part of the data that a report is about; the caller compares its digest."""
    if isinstance(uri, Dataset):
        return uri
    stated, uri = result.data, uri or result.data.uri
    if stated.part == "held-out" and result.training is not None:
        seed = result.training.recipe.get("seed")
        whole = load(uri, part=None, download=download)
        return hold_out(whole, ASIDE, seed if isinstance(seed, int) else 0)[1]
    part = stated.part if stated.part in ("train", "test") else None
    if result.model.inputs is not None:
        return _several_inputs(result, uri, part)
    return load(uri, part=part, download=download)  # type: ignore[arg-type]


def _several_inputs(result: Result, uri: str, part: str | None) -> Dataset:
    """The data of a model with several inputs."""
    whole = {i.name: i.dtype for i in result.model.inputs or () if i.dtype != "float32" and i.use == "data"}
    # As ``Joined`` has them: first those of float32, behind them those of whole numbers.
    inputs = [i for i in result.model.inputs or () if i.dtype == "float32"]
    inputs += [i for i in result.model.inputs or () if i.name in whole]
    perturbed = next((i.name for i in inputs if i.use == "perturbed"), "")
    shapes = {i.name: tuple(d for d in i.shape[1:] if isinstance(d, int)) for i in inputs}
    constants = {i.name: np.asarray(i.value, np.float32) for i in inputs if i.value is not None}
    features = result.threat.features
    unit = features is not None and features.high is not None and {*features.high} <= {None, 1.0}
    pixels = features is not None and unit and features.units.startswith(VALID_RANGE)
    how: dict[str, Any] = {"perturbed": perturbed, "constants": constants, "pixels": pixels, "whole": whole}
    return several.read(uri, part, shapes, **how)  # type: ignore[arg-type]


def require_same(data: Dataset, result: Result) -> None:
    """Raise InputRejected (3) where the data are not the report's."""
    if data.digest != result.data.sha256:
        raise InputRejected(
            f"{data.uri!r} ({data.part}) holds other data than the report's {result.data.uri!r}: its SHA-256 begins "
            f"{data.digest[:12]}, the report says {result.data.sha256[:12]}. Name the data of the report with --data."
        )


def images(data: Dataset, result: Result, samples: Samples, layout: str | None = None) -> np.ndarray:
    """The samples of a report, in its order and in the layout of ``certify``: float32 (n, *input).

    Raises Contradiction (5) for a sample that the data do not have.
    """
    if (absent := (samples.index < 0) | (samples.index >= len(data))).any():
        raise Contradiction(
            f"The samples of a report are a selection of its data, which have {len(data)} samples; samples.npz names number "
            f"{samples.index[absent.argmax()]}. Certify again."
        )
    selection = dataclasses.replace(data.take(samples.index), labels=samples.label)
    shape = tuple(int(d) for d in result.model.input.shape[1:] if isinstance(d, int))
    stated = {"input_shape": shape, "classes": result.model.output.classes, "value_range": result.preprocessing.range}
    return fit(selection, layout=layout, **stated).images[:]  # type: ignore[arg-type]


def step_of(text: str) -> float:
    """The step of an attack in units of eps, from a text such as "0.25 eps"."""
    return float(Fraction(text.removesuffix("eps").strip()))


def pictures(report: Path, uri: str, *, layout: str | None = None, download: bool = False) -> Pictures:
    """Thumbnails of the samples with margins near zero, for the page of a report: the report itself holds no pixels.

    Raises UsageError (2) where the report has no samples, InputRejected (3) for data that are not the report's.
    """
    result = read(report).result
    if result.samples is None:
        raise UsageError("--data gives pictures of samples, and this report has none.")
    folder = report if report.is_dir() else report.parent
    samples = read_samples(folder / result.samples.file, result.samples)
    data = dataset(result, uri, download=download)
    require_same(data, result)
    pixels, stated = images(data, result, samples, layout), result.preprocessing
    return thumbnails(result.levels, samples.index, pixels, value_range=stated.range, layout=stated.layout)


def pixels_of(
    result: Result, samples: Samples, uri: str | Dataset, layout: str | None, download: bool, findings: Findings
) -> np.ndarray | None:
    """The pixels of the samples if the data are the report's, else None; enters the check into ``findings``."""
    data = dataset(result, uri, download=download)
    uri = data.uri if isinstance(uri, Dataset) else uri

    def faults() -> Iterator[str]:
        if data.digest != result.data.sha256 or len(data) != result.data.n_total:
            yield (
                f"{uri}: these are not the data of the report: their SHA-256 begins {data.digest[:12]}, the report says "
                f"{result.data.sha256[:12]}."
            )
            return
        if _mislabelled(data, samples):
            yield f"{uri}: labels differ from those of the report by more than one common offset."
        if not np.array_equal(samples.index, selected(result)):
            yield "samples.npz: its samples are not those that the selection of report.json takes."
        names = [name.encode("utf-8", "replace").decode() for name in data.class_names or ()]
        if names and names != list(result.data.class_names or names):
            yield f"{uri}: classes have other names than the report says."

    if not findings.check("the digest of the data, and the labels of the samples", faults()):
        return None
    return images(data, result, samples, layout)


def selected(result: Result) -> np.ndarray:
    """The indices of the samples that the selection of a report takes, or those of its shard, ascending."""
    stated, total = result.data.selection, result.data.n_total
    indices = select(total, None if stated.method == "all" else max(1, stated.max_samples or 1), stated.seed or 0)
    if result.shard is None or len(indices) != result.shard.n_run:
        return indices
    return indices[np.concatenate(result.shard.blocks)]


def _mislabelled(dataset: Dataset, samples: Samples) -> bool:
    if samples.index.min() < 0 or samples.index.max() >= len(dataset):
        return True
    return len(np.unique(samples.label - dataset.labels[samples.index])) > 1


def subject_of(result: Result, model: Path, findings: Findings) -> Subject | None:
    """The model if it is the report's, else None; enters the check into ``findings``."""
    content = model_file.content(model)
    file: ModelFile | None = None
    faults: Iterator[str]
    try:
        file = model_file.from_bytes(model, content)
        faults = _other_model(result, file)
    except InputRejected as error:
        if not result.model.external_data and digest.sha256(content) == result.model.sha256:
            raise
        faults = iter([f"{model.name}: it cannot be read, so it is not the model of the report: {error}"])
    same = findings.check("the digest of the model, external data included", faults)
    if not same or file is None:
        return None
    reopened = subject(file, result)
    findings.check("the description of the model: its inputs, operators and metadata", _misdescribed(result, reopened))
    return reopened


def _misdescribed(result: Result, reopened: Subject) -> Iterator[str]:
    # A file may be renamed, and older reports have other digests.
    stated, actual = (
        model.model_dump(mode="json", exclude={"file", "sha256", "external_data"}, exclude_none=True)
        for model in (result.model, facts.model(reopened))
    )
    for where, a, b in differing(stated, {name: actual.get(name) for name in stated}, "model"):
        yield f"report.json: {where} is stated as {a}; the file gives {b}."


def _parts(files: Iterable[FileDigest]) -> list[tuple[str, int]]:
    return [(file.sha256, file.bytes) for file in files]


def _other_model(result: Result, file: ModelFile) -> Iterator[str]:
    stated, actual = result.model, file.digests
    # An older report has one digest over the bytes of all files, and beside it the digest of each external file.
    older = stated.sha256 == actual.joined_sha256 and _parts(stated.external_data) == _parts(file.external_data)
    if actual.sha256 != stated.sha256 and not older:
        yield (
            f"{file.path.name}: this is not the model of the report: its SHA-256 begins {actual.sha256[:12]}, the report says "
            f"{stated.sha256[:12]}."
        )
        return
    for name in ("structure_sha256", "weights_sha256"):
        if getattr(stated, name) not in (None, getattr(actual, name)):
            yield f"{file.path.name}: its {name} is {getattr(actual, name)[:12]}, the report says another."
