"""Measures the error of a kernel at every float32, and records bits by which another kernel is recognised."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.errors import EnvironmentFailure
from pipeline.onnx.kernel_runs import CHUNK, Run, full, in_pieces, rest
from pipeline.onnx.kernels import OPERATORS, Kernel

PATTERNS = 1 << 32
EVERY = 128
"""One input in this many is also tried in short tensors."""
SPOTS = 1 << 14
"""Inputs of a spot check, which takes some milliseconds a kernel."""
LARGEST = 2.0**126
"""Results beyond it are not covered: a kernel may saturate or overflow early."""
REFERENCE = 16 * 2.0**-53
"""The relative error of a float64 reference: 4 ulp (8 w) for the library's function, the rest for the operations around it."""
_SHORT = 1 << 11
"""Inputs of a spot check in short tensors."""


@dataclass(frozen=True)
class Measured:
    """The error of a kernel: ``|fl(f)(x) - f(x)| <= absolute + relative |f(x)|`` at every ``x`` that was tried."""

    absolute: float
    relative: float
    patterns: int
    """How many bit patterns were tried, in full vectors and in the rest of a vector loop; a table needs all 2^32."""
    points: int
    """How many of these are finite and within the kernel's domain."""
    pieces: int
    """How many of these were also tried in tensors shorter than a vector."""
    rest_mismatches: int
    """How often the rest of a vector loop gave other bits than a full vector; the error covers both."""
    largest: float
    """The largest finite output."""
    worst: tuple[float, ...]
    """The inputs at which the errors are attained."""
    spots: str
    """SHA-256 of the kernel's outputs at these and at ``SPOTS`` other inputs, in every form."""
    seconds: float


@dataclass(frozen=True)
class Sweep:
    """The progress of a measurement in bit patterns, and an estimate of its whole duration in seconds."""

    done: int
    total: int
    seconds: float


@dataclass
class _Worst:
    """The largest error so far, and its input."""

    error: float = 0.0
    at: float = 0.0

    def update(self, errors: np.ndarray, x: np.ndarray, allowance: float) -> None:
        most = float(errors.max()) + allowance
        if not most <= self.error:
            self.error, self.at = most, float(x[int(errors.argmax())])


def measure(
    operator: str, *, count: int = PATTERNS, forms: tuple[Run, Run, Run] | None = None
) -> Iterator[Sweep | Measured]:
    """Try ``count`` float32 bit patterns, all of them or evenly spaced ones; the last value yielded is the Measured.

    ``forms`` are the kernel in full vectors, in the rest of a vector loop, and on short tensors; by default ONNX Runtime's on one
    core. On short tensors every ``EVERY``-th input is tried, and all inputs once one gives bits that neither other form gives.
    Infinities and NaN are left out. Raises EnvironmentFailure (74) if the kernel is not finite where the function is.
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
            for output, at in ((one, slice(None)), (other, differ), (short, new)):
                inputs, values = (x[few], exact[few]) if output is short else (x, exact)
                _errors(operator, inputs[at], values[at], output[at], absolute, relative)
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
        spots=_digest(spot_outputs(operator, worst, forms)),
        seconds=round(time.monotonic() - started, 1),
    )


def contradiction(operator: str, stated: Measured) -> str | None:
    """How the kernel of this machine contradicts an entry of a table, as the end of a sentence about it; None if it does not."""
    kernel, x, outputs = OPERATORS[operator], _spot_inputs(operator, stated.worst), spot_outputs(operator, stated.worst)
    exact = kernel.reference(torch.from_numpy(x).double()).numpy()
    absolute, relative = _Worst(), _Worst()
    for output in outputs:
        _errors(operator, x[: len(output)], exact[: len(output)], output, absolute, relative, charging=False)
    if absolute.error > stated.absolute or relative.error > stated.relative:
        return (
            f"errs by {max(absolute.error, relative.error):.3g} here, and the kernel table says at most "
            f"{stated.absolute:.3g} + {stated.relative:.3g} |f|"
        )
    same = _digest(outputs) == stated.spots
    return None if same else "gives other bits here than those that the kernel table was made from"


def spot_outputs(
    operator: str, worst: tuple[float, ...], forms: tuple[Run, Run, Run] | None = None
) -> list[np.ndarray]:
    """The outputs of each form of a kernel at ``worst`` and at inputs of every magnitude."""
    one, other, short = forms or (full(operator), rest(operator), in_pieces(operator))
    x = _spot_inputs(operator, worst)
    return [one(x), other(x), short(x[:_SHORT])]


def _spot_inputs(operator: str, worst: tuple[float, ...]) -> np.ndarray:
    x = _inputs(OPERATORS[operator], np.arange(SPOTS, dtype=np.uint64), SPOTS)
    # A fixed pseudorandom order, since only the first inputs are also tried in short tensors.
    x = x[np.argsort(np.arange(len(x), dtype=np.uint64) * np.uint64(2654435761) % np.uint64(PATTERNS))]
    return np.concatenate([np.asarray(worst, np.float32), x])


def _inputs(kernel: Kernel, index: np.ndarray, count: int) -> np.ndarray:
    """The bit patterns of these numbers, out of ``count`` evenly spaced ones, that are finite and in the kernel's domain."""
    x = (index * np.uint64((PATTERNS // count) | 1)).astype(np.uint32).view(np.float32)
    inside = np.isfinite(x) & (x >= kernel.least) & (x <= kernel.most)
    return x if inside.all() else x[inside]


def _bits(value: np.ndarray) -> np.ndarray:
    return value.view(np.uint32 if value.dtype == np.float32 else np.uint64)


def _digest(values: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(v.tobytes() for v in values)).hexdigest()


def _errors(
    operator: str,
    x: np.ndarray,
    exact: np.ndarray,
    output: np.ndarray,
    absolute: _Worst,
    relative: _Worst,
    *,
    charging: bool = True,
) -> None:
    """Update the largest errors: absolute below the pivot, relative from it on; ``charging`` adds the error of the reference."""
    kernel = OPERATORS[operator]
    if not len(x):
        return
    size = np.abs(exact)
    if not size.max() <= LARGEST:
        covered = size <= LARGEST
        x, exact, output, size = x[covered], exact[covered], output[covered], size[covered]
        if not len(x):
            return
    error = np.subtract(output, exact, dtype=np.float64)
    np.abs(error, out=error)
    if not math.isfinite(error.max()):
        where = x[~np.isfinite(error)][0]
        raise EnvironmentFailure(f"ONNX Runtime's {operator} is not finite at {where!r}; use `--arithmetic real`.")
    allowance, most = (REFERENCE + kernel.unseen) if charging else 0.0, float(size.max())
    if most < kernel.pivot:
        least = REFERENCE if kernel.pivot >= 1 else 2.0**-1000
        absolute.update(error, x, most * allowance + (least if charging else 0.0))
    elif size.min() >= kernel.pivot:
        relative.update(np.divide(error, size, out=error), x, 2 * allowance)
    else:
        low = size < kernel.pivot
        for part in (low, ~low):
            _errors(operator, x[part], exact[part], output[part], absolute, relative, charging=charging)
