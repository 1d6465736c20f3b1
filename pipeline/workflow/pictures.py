"""Pictures for the page of a report, from its data: the report itself holds no pixel."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError
from pipeline.render import Pictures, thumbnails
from pipeline.report import read, read_samples
from pipeline.workflow import again


def pictures(report: Path, uri: str, *, layout: str | None = None, download: bool = False) -> Pictures:
    """Thumbnails of the samples near the edge.

    Raises UsageError (2) where the report has no samples, InputRejected (3) for data that are not the report's.
    """
    result = read(report).result
    if result.samples is None:
        raise UsageError("--data gives pictures of samples, and this report has none.")
    folder = report if report.is_dir() else report.parent
    samples = read_samples(folder / result.samples.file, result.samples)
    dataset = again.dataset(result, uri, download=download)
    again.require_same(dataset, result)
    pixels, prepared = again.images(dataset, result, samples, layout), result.preprocessing
    return thumbnails(result.levels, samples.index, pixels, value_range=prepared.range, layout=prepared.layout)
