"""How far a kernel lies from its function, measured at every float32; and the bits that tell it from another kernel."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.errors import EnvironmentFailure
from pipeline.onnx.kernels import CHUNK, OPERATORS, Kernel, Run, full, in_pieces, rest

PATTERNS = 1 << 32
EVERY = 128
"""One input in so many is tried in short tensors too."""
SPOTS = 1 << 14
"""Inputs of a spot check, some milliseconds a kernel."""
LARGEST = 2.0**126
"""Results beyond it are not covered: a kernel may saturate or overflow early."""
REFERENCE = 16 * 2.0**-53
"""What a reference may err by, in float64: 4 ulp (8 w) for the library's function, the rest for what joins them."""
_SHORT = 1 << 11
"""Inputs of a spot check in short tensors."""


@dataclass(frozen=True)
class Measured:
    """``|fl(f)(x) - f(x)| <= absolute + relative |f(x)|`` at every ``x`` tried."""

    absolute: float
    relative: float
    patterns: int
    """How many bit patterns were tried, by vectors and as the rest of vectors; all 2^32 make a table."""
    points: int
    """How many of them are finite, and counted."""
    pieces: int
    """How many of those were tried in tensors shorter than a vector too."""
    rest_mismatches: int
    """How often the rest of a vector loop gave other bits than a full vector; its error is among those above."""
    largest: float
    worst: tuple[float, ...]
    """Inputs at which the errors stated are attained."""
    spots: str
    """SHA-256 of what the kernel gives at those and at ``SPOTS`` inputs more, in every form."""
    seconds: float


@dataclass(frozen=True)
class Sweep:
    """How far a measurement has come, in patterns, and an estimate of the whole in seconds."""

    done: int
    total: int
    seconds: float


@dataclass
class _Worst:
    """The largest error so far, and where."""

    error: float = 0.0
    at: float = 0.0

    def seen(self, errors: np.ndarray, x: np.ndarray, charged: float) -> None:
        most = float(errors.max()) + charged
        if not most <= self.error:
            self.error, self.at = most, float(x[int(errors.argmax())])


def measure(
    operator: str, *, count: int = PATTERNS, forms: tuple[Run, Run, Run] | None = None
) -> Iterator[Sweep | Measured]:
    """Try ``count`` float32 bit patterns, all of them or evenly spaced ones; the last value yielded is the Measured.

    ``forms`` are the kernel by vectors, as the rest of vectors, and on short tensors, by default ONNX Runtime's on one core. On
    short tensors every ``EVERY``-th input is tried, and all from the first on that gives bits which neither of the others has.
    Infinities and NaN are left out. Raises EnvironmentFailure if the kernel is not finite where the function is.
    """
    kernel, forms = OPERATORS[operator], forms or (full(operator), rest(operator), in_pieces(operator))
    started, strange = time.monotonic(), False
    absolute, relative = _Worst(), _Worst()
    points = pieces = mismatches = 0
    largest = 0.0
    for start in range(0, count, CHUNK):
        x = _inputs(kernel, np.arange(start, min(start + CHUNK, count), dtype=np.uint64), count)
        if len(x):
            exact = kernel.reference(torch.from_numpy(x).double()).numpy()
            one, other = forms[0](x), forms[1](x)
            differ = _bits(one) != _bits(other)
            few = slice(None) if strange else slice((start // CHUNK * 61) % EVERY, None, EVERY)
            short = forms[2](x[few]) if len(x[few]) else one[:0]
            new = (_bits(short) != _bits(one[few])) & (_bits(short) != _bits(other[few]))
            if new.any() and not strange and not kernel.rows:
                strange, few, short = True, slice(None), forms[2](x)
                new = (_bits(short) != _bits(one)) & (_bits(short) != _bits(other))
            for got, at in ((one, slice(None)), (other, differ), (short, new)):
                inputs, values = (x, exact) if got is one else (x[few], exact[few]) if got is short else (x, exact)
                _errors(operator, inputs[at], values[at], got[at], absolute, relative)
            points, pieces = points + len(x), pieces + len(short)
            mismatches += int(np.count_nonzero(differ))
            largest = max(largest, float(np.abs(one[np.isfinite(one)]).max(initial=0.0)))
        done = min(start + CHUNK, count)
        yield Sweep(done, count, (time.monotonic() - started) * count / done)
    worst = tuple(sorted({w.at for w in (absolute, relative) if w.error}))
    yield Measured(
        absolute=absolute.error,
        relative=relative.error,
        patterns=count,
        points=points,
        pieces=pieces,
        rest_mismatches=mismatches,
        largest=largest,
        worst=worst,
        spots=_digest(spots(operator, worst, forms)),
        seconds=round(time.monotonic() - started, 1),
    )


def contradicted(operator: str, kept: Measured) -> str | None:
    """What a kernel does here that a table does not say of it, as the end of a sentence about it; None where nothing."""
    kernel, x, found = OPERATORS[operator], _spotted(operator, kept.worst), spots(operator, kept.worst)
    exact = kernel.reference(torch.from_numpy(x).double()).numpy()
    absolute, relative = _Worst(), _Worst()
    for got in found:
        _errors(operator, x[: len(got)], exact[: len(got)], got, absolute, relative, charging=False)
    if absolute.error > kept.absolute or relative.error > kept.relative:
        return (
            f"errs by {max(absolute.error, relative.error):.3g} here, and the kernel table says at most "
            f"{kept.absolute:.3g} + {kept.relative:.3g} |f|"
        )
    return (
        None if _digest(found) == kept.spots else "gives other bits here than those that the kernel table was made from"
    )


def spots(operator: str, worst: tuple[float, ...], forms: tuple[Run, Run, Run] | None = None) -> list[np.ndarray]:
    """What each form of a kernel gives at ``worst`` and at inputs of every size."""
    one, other, short = forms or (full(operator), rest(operator), in_pieces(operator))
    x = _spotted(operator, worst)
    return [one(x), other(x), short(x[:_SHORT])]


def _spotted(operator: str, worst: tuple[float, ...]) -> np.ndarray:
    spread = _inputs(OPERATORS[operator], np.arange(SPOTS, dtype=np.uint64), SPOTS)
    # Those that come first are tried in short tensors too.
    spread = spread[np.argsort(np.arange(len(spread), dtype=np.uint64) * np.uint64(2654435761) % np.uint64(PATTERNS))]
    return np.concatenate([np.asarray(worst, np.float32), spread])


def _inputs(kernel: Kernel, index: np.ndarray, count: int) -> np.ndarray:
    """The finite float32 numbers of some of ``count`` bit patterns that a kernel is measured at."""
    x = (index * np.uint64((PATTERNS // count) | 1)).astype(np.uint32).view(np.float32)
    kept = np.isfinite(x) & (x >= kernel.least) & (x <= kernel.most)
    return x if kept.all() else x[kept]


def _bits(value: np.ndarray) -> np.ndarray:
    return value.view(np.uint32 if value.dtype == np.float32 else np.uint64)


def _digest(values: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(v.tobytes() for v in values)).hexdigest()


def _errors(
    operator: str,
    x: np.ndarray,
    exact: np.ndarray,
    got: np.ndarray,
    absolute: _Worst,
    relative: _Worst,
    *,
    charging: bool = True,
) -> None:
    """Enter the errors of some outputs: absolute below the pivot, relative from it on; ``charging`` adds the reference's own."""
    kernel = OPERATORS[operator]
    if not len(x):
        return
    size = np.abs(exact)
    if not size.max() <= LARGEST:
        covered = size <= LARGEST
        x, exact, got, size = x[covered], exact[covered], got[covered], size[covered]
        if not len(x):
            return
    error = np.subtract(got, exact, dtype=np.float64)
    np.abs(error, out=error)
    if not math.isfinite(error.max()):
        where = x[~np.isfinite(error)][0]
        raise EnvironmentFailure(f"ONNX Runtime's {operator} is not finite at {where!r}; use `--arithmetic real`.")
    charged, most = (REFERENCE + kernel.unseen) if charging else 0.0, float(size.max())
    if most < kernel.pivot:
        least = REFERENCE if kernel.pivot >= 1 else 2.0**-1000
        absolute.seen(error, x, most * charged + (least if charging else 0.0))
    elif size.min() >= kernel.pivot:
        relative.seen(np.divide(error, size, out=error), x, 2 * charged)
    else:
        low = size < kernel.pivot
        for part in (low, ~low):
            _errors(operator, x[part], exact[part], got[part], absolute, relative, charging=charging)
