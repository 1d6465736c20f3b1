"""``pipeline export-vnnlib``: a sample of a report as a VNN-LIB property."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from pipeline import results as reports
from pipeline.commands import reopen
from pipeline.commands.features import ball_in
from pipeline.core.threat import Ball
from pipeline.errors import UsageError
from pipeline.numbers import parse_eps
from pipeline.results import Preprocessing, Result
from pipeline.vnnlib import robustness

U32, TINY32 = Fraction(1, 2**24), Fraction(1, 2**126)


def export_vnnlib(
    report: Path, index: int, *, eps: str | None = None, data: str | None = None, layout: str | None = None
) -> str:
    """The text of the unsafe set of one sample at one eps: ``x' in [x - eps, x + eps]``, clipped, ``Y_j >= Y_label`` for some j.

    Every end is exact or rounded outward. Where mean and std are applied outside the file, the box is that of the file's own
    inputs, ``(x' - mean) / std`` with the rounding of float32. Raises UsageError (2) for a sample or eps that the report does
    not have, InputRejected (3) for data that are not the report's.
    """
    result = reports.read(report).result
    if result.threat.norm != "linf" or result.samples is None:
        raise UsageError(f"VNN-LIB states boxes, for samples; this report is of the norm {result.threat.norm}.")
    folder = report if report.is_dir() else report.parent
    samples = reports.read_samples(folder / result.samples.file, result.samples)
    at = np.flatnonzero(samples.index == index)
    if len(at) != 1:
        raise UsageError(f"--index is that of a sample in the report, as in {_some(samples.index)}; received {index}.")
    level = _level(samples.eps, eps)
    dataset = reopen.dataset(result, data)
    reopen.require_same(dataset, result)
    pixels = reopen.images(dataset, result, samples, layout)[int(at[0])]
    ball = ball_in(result, Fraction(samples.eps[level]))
    lower, upper = _box(pixels, ball, result.preprocessing)
    label = int(samples.label[at[0]])
    output, comments = result.model.output, _comments(result, samples, int(at[0]), level)
    threshold = None if output.threshold is None else Fraction(float(np.float32(output.threshold)))
    return robustness(lower, upper, label, output.classes, comments, threshold)


def _level(all_radii: tuple[str, ...], eps: str | None) -> int:
    if eps is None and len(all_radii) == 1:
        return 0
    radius = None if eps is None else parse_eps(eps)
    for i, text in enumerate(all_radii):
        if Fraction(text) == radius:
            return i
    raise UsageError(f"--eps is one of the report's, {', '.join(all_radii)}; received {eps or 'none'}.")


def _box(pixels: np.ndarray, ball: Ball, preprocessing: Preprocessing) -> tuple[list[Fraction], list[Fraction]]:
    """The lower and upper ends of the file's inputs, flat."""
    _, *valid = ball.extent(torch.from_numpy(pixels[None]))
    low, high = (np.broadcast_to(np.asarray(v), pixels.shape).reshape(-1).tolist() for v in valid)
    exact = [Fraction(float(v)) for v in pixels.reshape(-1)]
    radii = [ball.radius_of(i) for i in range(len(exact))]
    lower = [v - r if e == -np.inf else max(v - r, Fraction(e)) for v, r, e in zip(exact, radii, low, strict=True)]
    upper = [v + r if e == np.inf else min(v + r, Fraction(e)) for v, r, e in zip(exact, radii, high, strict=True)]
    if preprocessing.mean is None or preprocessing.std is None:
        return lower, upper
    axis = pixels.ndim - 1 if preprocessing.layout == "NHWC" else 0
    channel = np.indices(pixels.shape)[axis].reshape(-1)
    means, stds = (np.asarray(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    for ends, sign in ((lower, -1), (upper, 1)):
        for i, end in enumerate(ends):
            k = int(channel[i]) if len(means) > 1 else 0
            std = Fraction(float(stds[k]))
            normal = (end - Fraction(float(means[k]))) / std
            # The deployment computes this in float32: two or three roundings, flushing to zero allowed.
            ends[i] = normal + sign * (8 * U32 * abs(normal) + TINY32 * (1 + 1 / std))
    return lower, upper


def _comments(result: Result, samples: reports.Samples, at: int, level: int) -> list[str]:
    verdict = reports.Verdict(samples.verdict[level, at]).word
    lines = [
        f"sample {samples.index[at]} of {result.data.uri} ({result.data.part}), label {samples.label[at]}, "
        f"eps {samples.eps[level]}: {verdict}",
        f"model {result.model.file}, SHA-256 {result.model.sha256}, output {result.model.output.name}",
        "unsat: no input of the box gets another label",
    ]
    if result.model.output.kind == "softmax":
        lines.append("the file ends in a Softmax: the report compares what goes into it, this property what comes out")
    return [reports.clean(line, 400).replace(";", ",") for line in lines]


def _some(index: np.ndarray) -> str:
    return ", ".join(map(str, index[:5])) + (", ..." if len(index) > 5 else "")
