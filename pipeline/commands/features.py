"""Radii by feature: from what settings and training data say of them to the boxes that are certified."""

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
from pipeline.distributed.group import Crew
from pipeline.errors import InputRejected, UsageError
from pipeline.numbers import whole
from pipeline.onnx.names import shown
from pipeline.results import Result, Threat
from pipeline.settings import Settings

LARGEST32 = float(np.finfo(np.float32).max)
VALID_RANGE = "the valid range"
WORDS = {"std": "standard deviations", "range": "ranges"}


@dataclass(frozen=True, eq=False)
class Reach:
    """How far eps = 1 moves each feature of a sample, why, and what the features are called."""

    radii: FeatureRadii
    names: tuple[str, ...] | None
    units: str
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the radii and ranges."""
        parts = (self.radii.radius, self.radii.low, self.radii.high)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part, "<f8").tobytes() for part in parts)).hexdigest()

    def told(self) -> reports.Features:
        """What a report says of it."""
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


def reach_of(dataset: Dataset, subject: Subject, settings: Settings, crew: Crew) -> Reach | None:
    """The radii by feature that settings ask for, None where they ask for none.

    Raises UsageError (2) for a feature that is not there, or none that may move, InputRejected (3) for data that do not fit.
    """
    if not (settings.by_feature or subject.joined):
        return None
    fitted = to_inputs(dataset, subject, settings)
    named = dataset.feature_names
    shape = subject.sample_shape
    size = int(np.prod(shape))
    low, high = np.full(size, -np.inf), np.full(size, np.inf)
    if settings.range is not None or not (settings.scale or settings.radius or settings.features):
        own = slice(None) if subject.joined is None else subject.joined.entries
        low[own], high[own] = settings.range or ((0.0, 1.0) if subject.joined else fitted.value_range)
    notes: list[str] = []
    if settings.scale:
        radius, units, told = crew.each(
            lambda: _scaled(dataset, subject, settings, named), first_alone=settings.download
        )
        notes += told
    elif settings.radius is not None:
        radius, units = _given(settings.radius, shape, low, high), "the radii that were given"
    elif settings.features:
        radius, units = np.zeros(size), "the radii that were given"
    else:
        radius, units = np.where(np.isfinite(low), high - low, 0.0), VALID_RANGE
    for word, said in settings.features.items():
        at = _index(word, named, size)
        radius[at] = said.radius
        low[at], high[at] = (
            said.low if said.low is not None else low[at],
            said.high if said.high is not None else high[at],
        )
    for at in _indices(settings.fixed, named, size):
        radius[at] = 0.0
    if subject.joined is not None:
        stays = np.ones(size, bool)
        stays[subject.joined.entries] = False
        radius[stays] = 0.0
        units = f"{units}, of input {shown(subject.joined.perturbed, 40)}"
    _require(radius, low, high, fitted, named)
    if settings.features and not settings.scale and settings.radius is None:
        notes.append(f"{int((radius == 0).sum())} features without a radius stay as they are")
    return Reach(FeatureRadii(*(v.reshape(shape) for v in (radius, low, high))), named, units, tuple(notes))


def ball_of(threat: Threat, eps: Fraction, shape: Sequence[int]) -> Ball:
    """The region of a sample of this shape that a threat allows at one eps."""
    about = threat.features
    if about is None:
        return BALLS[threat.norm](eps, *threat.range)
    open_ends = ((about.low, -np.inf), (about.high, np.inf))
    low, high = (
        np.array([none if v is None else v for v in values or [none] * len(about.radii)]).reshape(shape)
        for values, none in open_ends
    )
    return FeatureBox(eps, *threat.range, features=FeatureRadii(np.array(about.radii).reshape(shape), low, high))


def ball_in(result: Result, eps: Fraction) -> Ball:
    """The region of a sample of a report at one eps."""
    return ball_of(result.threat, eps, [d for d in result.model.input.shape[1:] if isinstance(d, int)])


def _scaled(
    dataset: Dataset, subject: Subject, settings: Settings, named: tuple[str, ...] | None
) -> tuple[np.ndarray, str, list[str]]:
    """Radii in deviations or ranges of the training data; what holds whole numbers or two values alone stays as it is."""
    training = _training(dataset, settings, subject.joined)
    values = to_inputs(training, subject, settings.model_copy(update={"range": None})).images[:]
    values = values.reshape(len(values), -1).astype(np.float64)
    radius = values.std(0) if settings.scale == "std" else values.max(0) - values.min(0)
    if (short := np.flatnonzero((radius < TINY32) & (radius > 0))).size:
        radius[short] = 0.0
    told = []
    movable = _indices(settings.movable, named, len(radius))
    for why, columns in discrete(values).items():
        stays = [at for at in columns if at not in movable and radius[at] > 0]
        radius[stays] = 0.0
        if stays:
            told.append(f"kept fixed, {why}: {_shown(stays, named)} (--movable NAME,... lets them move)")
    if (constant := np.flatnonzero(np.ptp(values, axis=0) == 0).tolist()) != []:
        told.append(f"kept fixed, the same in all of the data: {_shown(constant, named)}")
    name = without_folders(training.uri)
    where = name if training.part == "all" else f"{name}, {training.part} part"
    return radius, f"{WORDS[str(settings.scale)]} of {len(values)} samples of {where}", told


def _training(dataset: Dataset, settings: Settings, joined: Joined | None) -> Dataset:
    uri = settings.scale_data or settings.data
    if uri is None or (settings.scale_data is None and (dataset.uri == IN_MEMORY or not has_part(uri, "train"))):
        return dataset
    return load_for(joined, uri, "train" if has_part(uri, "train") else None, settings)


def _given(said: str | tuple[float, ...], shape: tuple[int, ...], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Radii as numbers, or from an archive with ``radius``, and perhaps ``low`` and ``high``, whose ends it sets."""
    size = low.size
    if isinstance(said, str):
        path = Path(said.removeprefix("npz:"))
        names = npz.members(path)
        if "radius" not in names:
            raise InputRejected(
                f"--radius {said}: the archive holds {sorted(names)[:8]}; name an array `radius`, one number a feature."
            )
        for name, ends in (("low", low), ("high", high)):
            if name in names:
                ends[:] = _flat(npz.read(path, name), size, f"{said}, {name}")
        return _flat(npz.read(path, "radius"), size, said)
    return _flat(np.asarray(said), size, "--radius")


def _flat(values: np.ndarray, size: int, where: str) -> np.ndarray:
    if values.size not in (1, size):
        raise UsageError(
            f"{where} gives one number for all features or one for each of {size}; it holds {values.size}."
        )
    return np.broadcast_to(values.astype(np.float64).reshape(-1), size).copy()


def _indices(words: Sequence[str], named: tuple[str, ...] | None, size: int) -> list[int]:
    found: list[int] = []
    for word in words:
        first, dash, last = word.partition("-")
        ends = whole(first), whole(last) if dash else None
        if None not in ends and word not in (named or ()):
            found += range(_index(first, named, size), _index(last, named, size) + 1)
        else:
            found.append(_index(word, named, size))
    return found


def _index(word: str, named: tuple[str, ...] | None, size: int) -> int:
    """A feature by its name, or its number from 0. Raises UsageError."""
    if named is not None and word in named:
        return named.index(word)
    at = whole(word)
    if at is not None and 0 <= at < size:
        return at
    known = "these data name none" if named is None else f"the names are {_shown(range(size), named)}"
    raise UsageError(
        f"a feature is named as the data name it, or by its number from 0 to {size - 1}; received {word[:40]!r} ({known})."
    )


def _shown(columns: Sequence[int], named: tuple[str, ...] | None) -> str:
    said = [named[at][:40] if named is not None and at < len(named) else str(at) for at in columns]
    return ", ".join(said[:12]) + (f" and {len(said) - 12} more" if len(said) > 12 else "")


def _require(
    radius: np.ndarray, low: np.ndarray, high: np.ndarray, fitted: Fitted, named: tuple[str, ...] | None
) -> None:
    """Raise UsageError for radii that mean nothing, InputRejected for a sample outside the range of a feature."""
    if not ((radius == 0) | ((radius >= TINY32) & (radius <= LARGEST32))).all():
        raise UsageError("the radius of a feature is 0, or a number that float32 holds, at least 1.2e-38.")
    if not (radius > 0).any():
        raise UsageError(
            "no feature may move, so that nothing would be checked: give some a radius, or let features of whole numbers move by "
            "--movable."
        )
    if not (low < high).all():
        raise UsageError("the range of a feature goes from `low` to a larger `high`.")
    values = fitted.images[:].reshape(len(fitted), -1)
    outside = ((values < low.astype(np.float32)) | (values > high.astype(np.float32))).any(0)
    if outside.any():
        at = int(outside.argmax())
        raise InputRejected(
            f"feature {_shown([at], named)} has values of {values[:, at].min():g} to {values[:, at].max():g}, outside its range "
            f"{low[at]:g} to {high[at]:g}. Mend the range, or the data."
        )
