"""``pipeline verify``: whether a report is what it was, says what its files say, and holds of the model and the data."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.certify import Progress
from pipeline.data import Dataset
from pipeline.errors import InputRejected, UsageError
from pipeline.graph import model_file
from pipeline.graph.digest import sha256
from pipeline.graph.model_file import ModelFile
from pipeline.report import Result, Samples
from pipeline.report.write import parse
from pipeline.review.audit import audit
from pipeline.review.findings import Findings
from pipeline.workflow import again
from pipeline.workflow.events import Note
from pipeline.workflow.subject import Subject
from pipeline.workflow.verify_points import check_points
from pipeline.workflow.verify_proofs import recheck as prove_again
from pipeline.workflow.verify_property import verify_property

ALONE = "digests say that nothing was changed, not who made it: sign report.json for that"


def verify(
    report: Path,
    *,
    model: Path | None = None,
    data: str | None = None,
    property_file: Path | None = None,
    recheck: int | None = None,
    seed: int | None = None,
    layout: str | None = None,
    download: bool = False,
) -> Iterator[Note | Progress | Findings]:
    """Check a report against itself, its model, its data, and by proving some samples again; the last event is ``Findings``.

    Which samples are proved again is drawn by chance, or by ``seed``, to repeat a draw. Raises UsageError (2) for options that
    do not belong to the report, InputRejected (3) for what cannot be read.
    """
    if seed is not None and (recheck is None or seed < 0):
        raise UsageError("--seed repeats a draw of --recheck, and is a whole number from 0.")
    text, raw = parse(report)
    if raw.get("kind") == "property":
        if data is not None:
            raise UsageError("--data is about samples; this report is about a property: name --property.")
        if recheck is not None and (model is None or property_file is None or recheck < 1):
            raise UsageError("--recheck decides a property again, at least once, and needs --model and --property.")
        yield from verify_property(
            report, text, raw, model=model, property_file=property_file, recheck=recheck is not None
        )
        return
    if property_file is not None:
        raise UsageError("--property belongs to the report of a property; this one is about samples: name --data.")
    if recheck is not None and (model is None or data is None or recheck < 1):
        raise UsageError("--recheck N proves N samples again, at least one, and needs --model and --data.")
    found = Findings()
    folder = report if report.is_dir() else report.parent
    made, samples, points = audit(folder, text, raw, found)
    if made is None or samples is None or found.faults:
        found.skip("the model, the data and the proofs: the report itself is broken")
        yield found
        return
    result = made.result
    pixels = _data(result, samples, data, layout, download, found)
    subject = _model(result, model, found)
    check_points(result, samples, points, pixels, subject, found)
    if recheck is None or pixels is None or subject is None:
        found.skip("the proofs: --recheck N with --model and --data makes N of them again")
    else:
        yield from prove_again(
            made, samples, pixels, subject, recheck, secrets.randbits(63) if seed is None else seed, found
        )
    if any(gate.baseline for gate in result.gates):
        found.skip("the baseline that a gate compared with: `pipeline compare` reads both")
    found.skip(f"report.html and whatever else was rendered from report.json; {ALONE}")
    yield found


def _data(
    result: Result, samples: Samples, uri: str | None, layout: str | None, download: bool, found: Findings
) -> np.ndarray | None:
    """The pixels of the samples, where the data were named and are the report's."""
    if uri is None:
        found.skip("the data: name them with --data")
        return None
    dataset = again.dataset(result, uri, download=download)

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
    return again.images(dataset, result, samples, layout)


def _mislabelled(dataset: Dataset, samples: Samples) -> bool:
    if samples.index.min() < 0 or samples.index.max() >= len(dataset):
        return True
    return len(np.unique(samples.label - dataset.labels[samples.index])) > 1


def _model(result: Result, model: Path | None, found: Findings) -> Subject | None:
    """The model, where it was named and is the report's."""
    if model is None:
        found.skip("the model: name it with --model")
        return None
    content = model_file.content(model)
    file: ModelFile | None = None
    faults: Iterator[str]
    try:
        file = model_file.checked(model, content)
        faults = _other_model(result, file)
    except InputRejected as error:
        if not result.model.external_data and sha256(content) == result.model.sha256:
            raise
        faults = iter([f"{model.name}: it cannot even be read, and so is not the model of the report: {error}"])
    right = found.weigh("the digest of the model, external data included", faults)
    return again.subject(file, result) if right and file is not None else None


def _other_model(result: Result, file: ModelFile) -> Iterator[str]:
    stated, is_now = result.model, file.digests
    if is_now.sha256 != stated.sha256:
        yield (
            f"{file.path.name}: this is not the model of the report: its SHA-256 begins {is_now.sha256[:12]}, the report says "
            f"{stated.sha256[:12]}."
        )
        return
    for name in ("structure_sha256", "weights_sha256"):
        if getattr(stated, name) not in (None, getattr(is_now, name)):
            yield f"{file.path.name}: its {name} is {getattr(is_now, name)[:12]}, the report says another."
