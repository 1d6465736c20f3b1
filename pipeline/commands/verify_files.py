"""The data and the model that ``pipeline verify`` is given: whether they are those of the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.audit.findings import Findings
from pipeline.commands import reopen
from pipeline.commands.subject import Subject
from pipeline.data import Dataset
from pipeline.errors import InputRejected
from pipeline.onnx import digest, model_file
from pipeline.onnx.model_file import ModelFile
from pipeline.results import FileDigest, Result, Samples


def pixels_of(
    result: Result, samples: Samples, uri: str, layout: str | None, download: bool, found: Findings
) -> np.ndarray | None:
    """The pixels of the samples, where the data are the report's."""
    dataset = reopen.dataset(result, uri, download=download)

    def faults() -> Iterator[str]:
        if dataset.digest != result.data.sha256 or len(dataset) != result.data.n_total:
            yield (
                f"{uri}: these are not the data of the report: their SHA-256 begins {dataset.digest[:12]}, the report says "
                f"{result.data.sha256[:12]}."
            )
        elif _mislabelled(dataset, samples):
            yield f"{uri}: samples have other labels than the report says, beyond one offset for all."

    if not found.weigh("the digest of the data, and the labels of the samples", faults()):
        return None
    return reopen.images(dataset, result, samples, layout)


def _mislabelled(dataset: Dataset, samples: Samples) -> bool:
    if samples.index.min() < 0 or samples.index.max() >= len(dataset):
        return True
    return len(np.unique(samples.label - dataset.labels[samples.index])) > 1


def subject_of(result: Result, model: Path, found: Findings) -> Subject | None:
    """The model, where it is the report's."""
    content = model_file.content(model)
    file: ModelFile | None = None
    faults: Iterator[str]
    try:
        file = model_file.checked(model, content)
        faults = _other_model(result, file)
    except InputRejected as error:
        if not result.model.external_data and digest.sha256(content) == result.model.sha256:
            raise
        faults = iter([f"{model.name}: it cannot even be read, and so is not the model of the report: {error}"])
    right = found.weigh("the digest of the model, external data included", faults)
    return reopen.subject(file, result) if right and file is not None else None


def _parts(files: Iterable[FileDigest]) -> list[tuple[str, int]]:
    return [(file.sha256, file.bytes) for file in files]


def _other_model(result: Result, file: ModelFile) -> Iterator[str]:
    stated, is_now = result.model, file.digests
    # An older report has the bytes of all files in one digest, and says which file has which digest beside it.
    older = stated.sha256 == is_now.joined_sha256 and _parts(stated.external_data) == _parts(file.external_data)
    if is_now.sha256 != stated.sha256 and not older:
        yield (
            f"{file.path.name}: this is not the model of the report: its SHA-256 begins {is_now.sha256[:12]}, the report says "
            f"{stated.sha256[:12]}."
        )
        return
    for name in ("structure_sha256", "weights_sha256"):
        if getattr(stated, name) not in (None, getattr(is_now, name)):
            yield f"{file.path.name}: its {name} is {getattr(is_now, name)[:12]}, the report says another."
