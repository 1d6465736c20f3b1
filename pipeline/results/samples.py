"""The table of verdicts per sample, of which every count in a result is a sum, and its files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from pipeline.errors import Contradiction, InputRejected
from pipeline.methods import DECIDERS
from pipeline.results.columns import arrays_of, decider_codes, exact_radii, require
from pipeline.results.result import SamplesFile
from pipeline.results.text import clean


class Verdict(IntEnum):
    """The verdict on one sample at one eps."""

    CERTIFIED = 0
    FALSIFIED = 1
    MISCLASSIFIED = 2
    UNKNOWN = 3

    @property
    def word(self) -> str:
        """The verdict as reports write it."""
        return self.name.lower()


FILE_NAME: Final = "samples.npz"
COUNTEREXAMPLES_NAME: Final = "counterexamples.npz"


@dataclass(frozen=True, eq=False)
class Counterexamples:
    """One counterexample for each falsified sample, at the smallest eps where one was found.

    `index` counts in the data's part; `image` is the point as the model's input, `predicted` the label that the file gives it.
    """

    index: Int64[np.ndarray, " k"]
    eps: np.ndarray
    image: Float[np.ndarray, " k *features"]
    predicted: Int64[np.ndarray, " k"]

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def joined(cls, several: Sequence[Counterexamples]) -> Counterexamples:
        """The counterexamples of several tables of samples in one, in the order of their indices."""
        index = np.concatenate([one.index for one in several])
        order = np.argsort(index, kind="stable")
        image, predicted = (np.concatenate([getattr(one, name) for one in several]) for name in ("image", "predicted"))
        eps = np.array([str(e) for one in several for e in one.eps], dtype=np.str_)
        return cls(index=index[order], eps=eps[order], image=image[order], predicted=predicted[order])

    @cached_property
    def content(self) -> bytes:
        """The bytes of the npz file: the same arrays give the same bytes."""
        return _stored({field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def described(self) -> SamplesFile:
        """The entry of this file in a result."""
        columns = tuple(field.name for field in fields(self))
        return SamplesFile(file=COUNTEREXAMPLES_NAME, sha256=hashlib.sha256(self.content).hexdigest(), columns=columns)


@dataclass(frozen=True, eq=False)
class Samples:
    """One column a sample, one row an eps (ascending).

    `index` counts in the data's part; `verdict` holds codes of Verdict; `margin_lower` the lower bound of
    `min over j of y_label - y_j` (NaN where none was computed); `survived` whether the attack found no counterexample,
    None without an attack; `undecided` whether an unknown sample was left unexamined by a budget; `decided_by` codes into
    DECIDERS; `largest_eps` the largest certified eps of each sample, in units of the range. Counterexamples have a file of their
    own.

    Raises Contradiction where two columns cannot both be true of a sample.
    """

    eps: tuple[str, ...]
    index: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"]
    predicted: Int64[np.ndarray, " n"]
    verdict: UInt8[np.ndarray, "levels n"]
    margin_lower: Float[np.ndarray, "levels n"]
    survived: Bool[np.ndarray, "levels n"] | None = None
    undecided: Bool[np.ndarray, "levels n"] | None = None
    decided_by: UInt8[np.ndarray, "levels n"] | None = None
    largest_eps: Float[np.ndarray, " n"] | None = None
    counterexamples: Counterexamples | None = None

    def __post_init__(self) -> None:
        certified, falsified = self.verdict == Verdict.CERTIFIED, self.verdict == Verdict.FALSIFIED
        wrong = np.broadcast_to(self.predicted != self.label, self.verdict.shape)
        self._refuse(self.verdict > Verdict.UNKNOWN, "a verdict code that means nothing")
        self._refuse((self.verdict == Verdict.MISCLASSIFIED) != wrong, "a verdict that contradicts the predicted class")
        self._refuse(certified & ~(self.margin_lower > 0), "certified without a positive margin")
        if self.survived is not None:
            self._refuse(certified & ~self.survived, "certified, and yet an attack succeeded")
            self._refuse(~wrong & (falsified == self.survived), "falsified without a counterexample, or the reverse")
        falsified_before = np.logical_or.accumulate(falsified, axis=0)
        self._refuse(certified & falsified_before, "certified at an eps above that of a counterexample")
        if self.undecided is not None:
            self._refuse(self.undecided & (self.verdict != Verdict.UNKNOWN), "undecided, and yet with a verdict")
        if self.decided_by is not None:
            self._refuse(self.decided_by >= len(DECIDERS), "decided by something without a name")
            self._refuse(
                (self.decided_by == 0) != (self.verdict == Verdict.UNKNOWN),
                "a verdict by nothing, or none by something",
            )
        if self.largest_eps is not None:
            radii = np.array([float(Fraction(e)) for e in self.eps])[:, None]
            self._refuse(falsified & (self.largest_eps >= radii), "certified at an eps at which it was falsified")

    def __len__(self) -> int:
        return len(self.index)

    def _refuse(self, bad: np.ndarray, what: str) -> None:
        if bad.any():
            level, column = np.argwhere(bad)[0]
            raise Contradiction(
                f"{int(bad.sum())} verdicts contradict themselves: {what}; the first is sample {self.index[column]} at "
                f"eps = {self.eps[level]}. Keep the model and the data and report this: it is a fault of the program."
            )

    @cached_property
    def content(self) -> bytes:
        """The bytes of the npz file: the same arrays give the same bytes."""
        arrays = {name: np.asarray(getattr(self, name)) for name in self._columns}
        names = {"verdict_names": np.array([verdict.word for verdict in Verdict])}
        if self.decided_by is not None:
            names["decided_by_names"] = np.array(DECIDERS)
        return _stored(names | arrays)

    @property
    def described(self) -> SamplesFile:
        """The entry of this file in a result."""
        return SamplesFile(file=FILE_NAME, sha256=hashlib.sha256(self.content).hexdigest(), columns=self._columns)

    @property
    def _columns(self) -> tuple[str, ...]:
        return tuple(name for name in COLUMNS if getattr(self, name) is not None)


COLUMNS = tuple(field.name for field in fields(Samples) if field.name != "counterexamples")


def _stored(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_samples(path: Path, expected: SamplesFile | None) -> Samples:
    """The table of a samples file; with `expected`, only if its digest is the one the report states.

    Raises UsageError for no file, InputRejected for a malformed one, Contradiction for another digest.
    """
    arrays = arrays_of(path, expected)
    try:
        columns = {name: array for name, array in arrays.items() if name in COLUMNS}
        eps, n = exact_radii(columns.pop("eps")), columns["index"].size
        for name, array in columns.items():
            alone = name in ("index", "label", "predicted", "largest_eps")
            require(name, array, (n,) if alone else (len(eps), n))
        if {"decided_by", "decided_by_names"} <= arrays.keys():
            columns["decided_by"] = decider_codes(columns["decided_by"], arrays["decided_by_names"])
        return Samples(eps, **columns)  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError) as error:
        raise InputRejected(f"{path.name!r} is no samples file: {clean(error)}. Certify again.") from error


def read_counterexamples(path: Path, expected: SamplesFile | None) -> Counterexamples:
    """The points of a counterexamples file. Raises as `read_samples` does."""
    arrays = arrays_of(path, expected)
    try:
        columns = {field.name: arrays[field.name] for field in fields(Counterexamples)}
        n = len(exact_radii(columns["eps"]))
        for name in ("index", "image", "predicted"):
            require(name, columns[name], (n, *columns[name].shape[1:]) if name == "image" else (n,))
        return Counterexamples(**columns)
    except (ValueError, KeyError, TypeError) as error:
        raise InputRejected(f"{path.name!r} is no counterexamples file: {clean(error)}. Certify again.") from error
