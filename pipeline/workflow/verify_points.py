"""Counterexamples of a report, held against its data and its model."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from pipeline.report import Counterexamples, Result, Samples
from pipeline.review.findings import Findings
from pipeline.threat import BALLS
from pipeline.workflow.subject import Subject


def check_points(
    result: Result,
    samples: Samples,
    points: Counterexamples,
    pixels: np.ndarray | None,
    subject: Subject | None,
    found: Findings,
) -> None:
    """Counterexamples lie in their balls, where pixels are given, and the file, where given, gives them the labels stated."""
    rows = np.flatnonzero(np.isin(samples.index, points.index))  # of the same order, as the audit has found
    if pixels is not None:
        what = f"{len(points)} counterexamples lie within eps of their samples"
        found.weigh(what, _outside(result, points, pixels[rows]))
    if subject is not None:
        found.weigh(f"ONNX Runtime gives {len(points)} counterexamples the labels stated", _harmless(points, subject))


def _outside(result: Result, points: Counterexamples, pixels: np.ndarray) -> Iterator[str]:
    ball_of = BALLS[result.threat.norm]
    for i, (point, x) in enumerate(zip(points.image, pixels, strict=True)):
        ball = ball_of(Fraction(str(points.eps[i])), *result.threat.range)
        if point.shape != x.shape or not _inside(point, x, float(ball.radius), ball.radius, result):
            yield f"counterexamples.npz: the point of sample {points.index[i]} lies outside its ball."


def _inside(point: np.ndarray, x: np.ndarray, radius: float, exact: Fraction, result: Result) -> bool:
    if not np.isfinite(point).all():
        return False
    p, c = point.astype(np.float64).reshape(-1), x.astype(np.float64).reshape(-1)
    low, high = result.threat.range
    if (p < np.minimum(c, low)).any() or (p > np.maximum(c, high)).any():
        return False
    if result.threat.norm == "l2":
        return float(np.linalg.norm(p - c)) <= radius
    # Where float64 is not sure, the difference is taken exactly.
    close = np.flatnonzero(np.abs(p - c) > radius * (1 - 1e-12))
    return all(abs(Fraction(float(p[i])) - Fraction(float(c[i]))) <= exact for i in close)


def _harmless(points: Counterexamples, subject: Subject) -> Iterator[str]:
    if points.image.shape[1:] != subject.sample_shape:
        yield "counterexamples.npz: its points do not have the shape of the model's input."
        return
    said = subject.predict(points.image.astype(np.float32)).argmax(1)
    if (bad := np.flatnonzero(said != points.predicted)).size:
        i = int(bad[0])
        yield (
            f"counterexamples.npz: the file gives {bad.size} points another label than stated; sample {points.index[i]} gets "
            f"{said[i]}, stated is {points.predicted[i]}."
        )
