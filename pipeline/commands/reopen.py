"""What a report is about, opened once more: its data as they were certified, its model under the same settings."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.commands.retraining import ASIDE
from pipeline.commands.subject import Subject, open_model
from pipeline.data import Dataset, fit, hold_out, load
from pipeline.errors import Contradiction, InputRejected, UsageError
from pipeline.onnx.model_file import ModelFile
from pipeline.render import Pictures, thumbnails
from pipeline.results import Result, Samples, read, read_samples
from pipeline.settings import Settings, settled


def settings(result: Result) -> Settings:
    """The settings under which a report was made, as far as it states them. Raises InputRejected (3) for what are none."""
    prepared, method = result.preprocessing, result.method
    said = {
        "norm": result.threat.norm,
        "eps": tuple(level.exact for level in result.levels),
        "range": prepared.range,
        "mean": prepared.mean,
        "std": prepared.std,
        "layout": "NHWC" if prepared.layout == "NHWC" else None,
        "output": result.model.output.name,
        "arithmetic": method.arithmetic,
        "attack": method.attack is not None,
        "provider": method.provider,
        **({} if method.execution is None else {"runtime_optimization": method.execution.optimization}),
    }
    try:
        return settled(said, dict.fromkeys(said, "report.json"))
    except UsageError as error:
        raise InputRejected(str(error)) from error


def subject(file: ModelFile, result: Result) -> Subject:
    """The model, imported as it was. Raises what ``open_model`` does."""
    return open_model(file, settings(result))


def dataset(result: Result, uri: str | None, *, download: bool = False) -> Dataset:
    """The part of the data that a report is about; whether it holds the same is for the caller to ask."""
    about, uri = result.data, uri or result.data.uri
    if about.part == "held-out" and result.training is not None:
        seed = result.training.recipe.get("seed")
        whole = load(uri, part=None, download=download)
        return hold_out(whole, ASIDE, seed if isinstance(seed, int) else 0)[1]
    part = about.part if about.part in ("train", "test") else None
    return load(uri, part=part, download=download)  # type: ignore[arg-type]


def require_same(found: Dataset, result: Result) -> None:
    """Raise InputRejected (3) for data that are not the report's."""
    if found.digest != result.data.sha256:
        raise InputRejected(
            f"{found.uri!r} ({found.part}) holds other data than the report's {result.data.uri!r}: its SHA-256 begins "
            f"{found.digest[:12]}, the report says {result.data.sha256[:12]}. Name the data of the report with --data."
        )


def images(found: Dataset, result: Result, samples: Samples, layout: str | None = None) -> np.ndarray:
    """The samples of a report, in its order, read and arranged as ``certify`` did: float32 (n, *input).

    Raises Contradiction (5) for a sample that the data do not hold.
    """
    if (absent := (samples.index < 0) | (samples.index >= len(found))).any():
        raise Contradiction(
            f"The samples of a report are some of its data, which hold {len(found)}; samples.npz names number "
            f"{samples.index[absent.argmax()]}. Certify again."
        )
    taken = dataclasses.replace(found.take(samples.index), labels=samples.label)
    shape = tuple(int(d) for d in result.model.input.shape[1:] if isinstance(d, int))
    known = {"input_shape": shape, "classes": result.model.output.classes, "value_range": result.preprocessing.range}
    return fit(taken, layout=layout, **known).images[:]  # type: ignore[arg-type]


def step_of(text: str) -> float:
    """The step of an attack in units of eps, from "0.25 eps"."""
    return float(Fraction(text.removesuffix("eps").strip()))


def pictures(report: Path, uri: str, *, layout: str | None = None, download: bool = False) -> Pictures:
    """Thumbnails of the samples near the edge, for the page of a report: the report itself holds no pixel.

    Raises UsageError (2) where the report has no samples, InputRejected (3) for data that are not the report's.
    """
    result = read(report).result
    if result.samples is None:
        raise UsageError("--data gives pictures of samples, and this report has none.")
    folder = report if report.is_dir() else report.parent
    samples = read_samples(folder / result.samples.file, result.samples)
    found = dataset(result, uri, download=download)
    require_same(found, result)
    pixels, prepared = images(found, result, samples, layout), result.preprocessing
    return thumbnails(result.levels, samples.index, pixels, value_range=prepared.range, layout=prepared.layout)
