"""Radii by feature: from settings and training data to the boxes that are certified."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline import results as reports
from pipeline.commands.run_data import to_inputs
from pipeline.commands.several_inputs import load_for
from pipeline.commands.subject import Subject
from pipeline.core.feature_box import FeatureBox, FeatureRadii
from pipeline.core.floating_point import TINY32
from pipeline.core.joined import Joined
from pipeline.core.threat import BALLS, Ball
from pipeline.data import Dataset, Fitted, discrete, has_part, npz, without_folders
from pipeline.data.dataset import IN_MEMORY
from pipeline.distributed.group import ProcessGroup
from pipeline.errors import InputRejected, UsageError
from pipeline.numbers import whole
from pipeline.onnx.names import shown
from pipeline.results import Result, Threat
from pipeline.settings import Settings

LARGEST32 = float(np.finfo(np.float32).max)
VALID_RANGE = "the valid range"
WORDS = {"std": "standard deviations", "range": "ranges"}


@dataclass(frozen=True, eq=False)
class NamedRadii:
    """The radius of each feature at eps = 1, in the feature's own unit; the names of features, and how radii were chosen."""

    radii: FeatureRadii
    names: tuple[str, ...] | None
    units: str
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over radii and ranges."""
        parts = (self.radii.radius, self.radii.low, self.radii.high)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part, "<f8").tobytes() for part in parts)).hexdigest()

    def to_report(self) -> reports.Features:
        """The entry of a report."""
        radii = self.radii

        def ends(values: np.ndarray) -> tuple[float | None, ...] | None:
            finite = np.isfinite(values)
            return (
                tuple(v if ok else None for v, ok in zip(values.flat, finite.flat, strict=True))
                if finite.any()
                else None
            )

        return reports.Features(
            radii=tuple(radii.radius.ravel().tolist()),
            low=ends(radii.low),
            high=ends(radii.high),
            names=self.names,
            units=self.units,
            notes=self.notes,
        )


def radii_of(dataset: Dataset, subject: Subject, settings: Settings, group: ProcessGroup) -> NamedRadii | None:
    """The radii by feature; None where one radius applies to all entries.

    Raises UsageError (2) for an unknown feature or if no feature may change, InputRejected (3) for data that do not fit.
    """
    if not (settings.by_feature or subject.joined):
        return None
    fitted = to_inputs(dataset, subject, settings)
    names = dataset.feature_names
    shape = subject.sample_shape
    size = int(np.prod(shape))
    low, high = np.full(size, -np.inf), np.full(size, np.inf)
    if settings.range is not None or not (settings.scale or settings.radius or settings.features):
        own = slice(None) if subject.joined is None else subject.joined.entries
        low[own], high[own] = settings.range or ((0.0, 1.0) if subject.joined else fitted.value_range)
    notes: list[str] = []
    if settings.scale:
        radius, units, why_fixed = group.on_each(
            lambda: _scaled(dataset, subject, settings, names), first_alone=settings.download
        )
        notes += why_fixed
    elif settings.radius is not None:
        radius, units = _explicit(settings.radius, low, high), "the radii that were given"
    elif settings.features:
        radius, units = np.zeros(size), "the radii that were given"
    else:
        radius, units = np.where(np.isfinite(low), high - low, 0.0), VALID_RANGE
    for word, feature in settings.features.items():
        at = _index(word, names, size)
        radius[at] = feature.radius
        low[at] = low[at] if feature.low is None else feature.low
        high[at] = high[at] if feature.high is None else feature.high
    for at in _indices(settings.fixed, names, size):
        radius[at] = 0.0
    if subject.joined is not None:
        fixed = np.ones(size, bool)
        fixed[subject.joined.entries] = False
        radius[fixed] = 0.0
        units = f"{units}, of input {shown(subject.joined.perturbed, 40)}"
    _require(radius, low, high, fitted, names)
    if settings.features and not settings.scale and settings.radius is None:
        notes.append(f"{int((radius == 0).sum())} features without a radius stay as they are")
    return NamedRadii(FeatureRadii(*(v.reshape(shape) for v in (radius, low, high))), names, units, tuple(notes))


def ball_of(threat: Threat, eps: Fraction, shape: Sequence[int]) -> Ball:
    """The region that a threat allows around a sample of this shape at one eps."""
    features = threat.features
    if features is None:
        return BALLS[threat.norm](eps, *threat.range)
    open_ends = ((features.low, -np.inf), (features.high, np.inf))
    low, high = (
        np.array([none if v is None else v for v in values or [none] * len(features.radii)]).reshape(shape)
        for values, none in open_ends
    )
    return FeatureBox(eps, *threat.range, features=FeatureRadii(np.array(features.radii).reshape(shape), low, high))


def ball_in(result: Result, eps: Fraction) -> Ball:
    """The region around a sample of a report at one eps."""
    return ball_of(result.threat, eps, [d for d in result.model.input.shape[1:] if isinstance(d, int)])


def _scaled(
    dataset: Dataset, subject: Subject, settings: Settings, names: tuple[str, ...] | None
) -> tuple[np.ndarray, str, list[str]]:
    """Radii as standard deviations or ranges of the training data, their unit, and notes on features that stay fixed.

    Features that hold only whole numbers, or only two values, stay fixed.
    """
    training = _training(dataset, settings, subject.joined)
    values = to_inputs(training, subject, settings.model_copy(update={"range": None})).images[:]
    values = values.reshape(len(values), -1).astype(np.float64)
    radius = values.std(0) if settings.scale == "std" else values.max(0) - values.min(0)
    if (short := np.flatnonzero((radius < TINY32) & (radius > 0))).size:
        radius[short] = 0.0
    notes = []
    movable = _indices(settings.movable, names, len(radius))
    for why, columns in discrete(values).items():
        fixed = [at for at in columns if at not in movable and radius[at] > 0]
        radius[fixed] = 0.0
        if fixed:
            notes.append(f"kept fixed, {why}: {_listed(fixed, names)} (--movable NAME,... lets them move)")
    if (constant := np.flatnonzero(np.ptp(values, axis=0) == 0).tolist()) != []:
        notes.append(f"kept fixed, the same in all of the data: {_listed(constant, names)}")
    name = without_folders(training.uri)
    where = name if training.part == "all" else f"{name}, {training.part} part"
    return radius, f"{WORDS[str(settings.scale)]} of {len(values)} samples of {where}", notes


def _training(dataset: Dataset, settings: Settings, joined: Joined | None) -> Dataset:
    uri = settings.scale_data or settings.data
    if uri is None or (settings.scale_data is None and (dataset.uri == IN_MEMORY or not has_part(uri, "train"))):
        return dataset
    return load_for(joined, uri, "train" if has_part(uri, "train") else None, settings)


def _explicit(radius: str | tuple[float, ...], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Radii given as numbers, or in an npz archive with an array ``radius``.

    Arrays ``low`` and ``high`` of the archive, if there, are copied into ``low`` and ``high``.
    """
    size = low.size
    if isinstance(radius, str):
        path = Path(radius.removeprefix("npz:"))
        members = npz.members(path)
        if "radius" not in members:
            raise InputRejected(
                f"--radius {radius}: the archive holds {sorted(members)[:8]}; name an array `radius`, one number a feature."
            )
        for name, ends in (("low", low), ("high", high)):
            if name in members:
                ends[:] = _flat(npz.read(path, name), size, f"{radius}, {name}")
        return _flat(npz.read(path, "radius"), size, radius)
    return _flat(np.asarray(radius), size, "--radius")


def _flat(values: np.ndarray, size: int, where: str) -> np.ndarray:
    if values.size not in (1, size):
        raise UsageError(
            f"{where} gives one number for all features or one for each of {size}; it holds {values.size}."
        )
    return np.broadcast_to(values.astype(np.float64).reshape(-1), size).copy()


def _indices(words: Sequence[str], names: tuple[str, ...] | None, size: int) -> list[int]:
    """The numbers of features given by name, by number, or as a range of numbers, ``3-7``."""
    indices: list[int] = []
    for word in words:
        first, dash, last = word.partition("-")
        ends = whole(first), whole(last) if dash else None
        if None not in ends and word not in (names or ()):
            indices += range(_index(first, names, size), _index(last, names, size) + 1)
        else:
            indices.append(_index(word, names, size))
    return indices


def _index(word: str, names: tuple[str, ...] | None, size: int) -> int:
    """The number of a feature given by its name, or by its number from 0. Raises UsageError."""
    if names is not None and word in names:
        return names.index(word)
    at = whole(word)
    if at is not None and 0 <= at < size:
        return at
    available = "these data name none" if names is None else f"the names are {_listed(range(size), names)}"
    raise UsageError(
        f"a feature is given by its name in the data, or by its number from 0 to {size - 1}; received {word[:40]!r} "
        f"({available})."
    )


def _listed(columns: Sequence[int], names: tuple[str, ...] | None) -> str:
    words = [names[at][:40] if names is not None and at < len(names) else str(at) for at in columns]
    return ", ".join(words[:12]) + (f" and {len(words) - 12} more" if len(words) > 12 else "")


def _require(
    radius: np.ndarray, low: np.ndarray, high: np.ndarray, fitted: Fitted, names: tuple[str, ...] | None
) -> None:
    """Raise UsageError for invalid radii or ranges, InputRejected for a sample outside the range of a feature."""
    if not ((radius == 0) | ((radius >= TINY32) & (radius <= LARGEST32))).all():
        raise UsageError("the radius of a feature is 0, or a number that float32 holds, at least 1.2e-38.")
    if not (radius > 0).any():
        raise UsageError(
            "no feature may move, so nothing would be checked: give some a radius, or let features of whole numbers move by "
            "--movable."
        )
    if not (low < high).all():
        raise UsageError("the range of a feature goes from `low` to a larger `high`.")
    values = fitted.images[:].reshape(len(fitted), -1)
    outside = ((values < low.astype(np.float32)) | (values > high.astype(np.float32))).any(0)
    if outside.any():
        at = int(outside.argmax())
        raise InputRejected(
            f"feature {_listed([at], names)} has values of {values[:, at].min():g} to {values[:, at].max():g}, outside its range "
            f"{low[at]:g} to {high[at]:g}. Correct the range, or the data."
        )
