"""Verdicts for a whole data set: what is misclassified, what an attack breaks, what a bound proves."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from pipeline.arithmetic import Mode, rounding_of
from pipeline.certify.attack import PGD, Predict, attack
from pipeline.errors import Contradiction, Incomplete
from pipeline.network import Network
from pipeline.propagate import walk
from pipeline.propagate.margins import MarginBounds
from pipeline.propagate.rounding import self_test
from pipeline.threat import LinfBall

CHUNK_BYTES = 1 << 28


class Verdict(IntEnum):
    """What is known of one sample at one eps."""

    CERTIFIED = 0
    FALSIFIED = 1
    MISCLASSIFIED = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Settings:
    """How a data set is certified: whose arithmetic the proof is about, and what tries to break it."""

    arithmetic: Mode = "float32-any-order"
    attack: PGD | None = field(default_factory=PGD)
    device: str = "cpu"
    batch: int | None = None
    """Samples bounded at once; None chooses by the size of the network's values."""


@dataclass(frozen=True)
class Progress:
    """How far a phase has come; ``seconds`` estimates the whole phase, where that could be measured beforehand."""

    phase: str
    done: int
    total: int
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Level:
    """The outcome at one eps, by sample: the verdict, and the least margin that was proved (NaN where none was asked)."""

    ball: LinfBall
    verdicts: np.ndarray
    margins: np.ndarray
    survived: np.ndarray | None
    """Whether the attack failed; None without an attack. Misclassified samples did not survive."""
    counterexamples: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Certification:
    """All levels, with the deployed file's own predictions."""

    predicted: np.ndarray
    levels: tuple[Level, ...]


def certify(
    network: Network,
    predict: Predict,
    images: np.ndarray,
    labels: np.ndarray,
    balls: Sequence[LinfBall],
    settings: Settings,
    *,
    indices: np.ndarray | None = None,
) -> Iterator[Progress | Certification]:
    """Prove, sample by sample, that no point of the ball changes the label; the last value yielded is the Certification.

    ``predict`` is the delivered file itself. The attack runs on every correctly classified sample and the bound on every
    sample, so that each can contradict the other: a sample both certified and attacked, or proved to have a label that
    the file does not give it, raises Contradiction (5). Zero samples raise Incomplete (4).
    """
    if len(images) == 0:
        raise Incomplete("nothing was selected, so nothing can be checked; select at least one sample.")
    indices = np.arange(len(images)) if indices is None else indices
    balls = sorted(balls, key=lambda ball: ball.eps)
    predicted = yield from _predict(predict, images)
    correct = predicted == labels
    survived: list[np.ndarray] | None = None
    points: list[np.ndarray] = []
    if settings.attack is not None:
        survived, points = yield from _attack_all(network, predict, images, labels, indices, balls, settings, correct)
    margins = yield from _bound_all(network, images, labels, balls, settings)
    least = np.full(len(images), np.nan)
    levels: list[Level] = []
    for i in reversed(range(len(balls))):
        # A bound at a larger eps is one at every smaller eps.
        least = np.fmax(least, np.where(np.isfinite(margins[i]), margins[i], np.nan))
        proved = (least > 0) & (settings.arithmetic != "none")
        stands = None if survived is None else survived[i]
        _contradictions(proved, correct, stands, balls[i], indices, settings)
        verdicts = np.full(len(images), Verdict.UNKNOWN, np.uint8)
        verdicts[proved & correct] = Verdict.CERTIFIED
        if stands is not None:
            verdicts[correct & ~stands] = Verdict.FALSIFIED
        verdicts[~correct] = Verdict.MISCLASSIFIED
        levels.append(Level(balls[i], verdicts, least, stands, points[i] if points else None))
    yield Certification(predicted, tuple(reversed(levels)))


def _predict(predict: Predict, images: np.ndarray) -> Generator[Progress, None, np.ndarray]:
    predicted = np.empty(len(images), np.int64)
    for at in _chunks(len(images), 256):
        logits = predict(images[at])
        # A NaN logit is nobody's argmax: such a sample counts as misclassified.
        predicted[at] = np.where(np.isfinite(logits).all(1), logits.argmax(1), -1)
        yield Progress("predict", at.stop, len(images))
    return predicted


def _attack_all(
    network: Network,
    predict: Predict,
    images: np.ndarray,
    labels: np.ndarray,
    indices: np.ndarray,
    balls: Sequence[LinfBall],
    settings: Settings,
    correct: np.ndarray,
) -> Generator[Progress, None, tuple[list[np.ndarray], list[np.ndarray]]]:
    assert settings.attack is not None
    network = copy.deepcopy(network).to(settings.device)
    alive, survived, points = correct.copy(), [], []
    found = images.copy()
    whole = int(correct.sum()) * len(balls)
    done, started, estimate = 0, time.monotonic(), None
    for ball in balls:
        # What breaks at a smaller eps is broken at every larger one.
        rows = np.flatnonzero(alive)
        done += int(correct.sum()) - len(rows)
        for at in _chunks(len(rows), 128):
            pick = rows[at]
            x, y = _tensors(images[pick], labels[pick], settings.device, torch.float32)
            broken, where = attack(network, predict, x, y, indices[pick], ball, settings.attack)
            alive[pick[broken]], found[pick[broken]] = False, where[broken]
            done += len(pick)
            estimate = estimate or (time.monotonic() - started) / max(done, 1) * whole
            yield Progress("attack", done, whole, estimate)
        survived.append(alive.copy())
        points.append(found.copy())
    return survived, points


def _bound_all(
    network: Network, images: np.ndarray, labels: np.ndarray, balls: Sequence[LinfBall], settings: Settings
) -> Generator[Progress, None, list[np.ndarray]]:
    self_test()
    exact = network.in_float64().to(settings.device)
    bounds = MarginBounds(exact, rounding_of(settings.arithmetic))
    size = settings.batch or _batch(exact, images)
    margins = [np.full(len(images), np.nan) for _ in balls]
    for at in _chunks(len(images), size):
        x, y = _tensors(images[at], labels[at], settings.device, torch.float64)
        for i, ball in enumerate(balls):
            margins[i][at] = bounds.bounds(ball.box(x), y).cpu().numpy()
        yield Progress("bound", at.stop, len(images))
    return margins


def _contradictions(
    proved: np.ndarray,
    correct: np.ndarray,
    survived: np.ndarray | None,
    ball: LinfBall,
    indices: np.ndarray,
    settings: Settings,
) -> None:
    """Raise Contradiction naming the samples whose proof something else refutes."""
    broken = proved & correct & ~survived if survived is not None else np.zeros_like(proved)
    # In real arithmetic alone, the file may round its way to another label: that is what the default mode is for.
    wrong = proved & ~correct if settings.arithmetic == "float32-any-order" else np.zeros_like(proved)
    for clash, what in ((broken, "an attack changed its label"), (wrong, "the file gives it another label")):
        if clash.any():
            named = ", ".join(str(i) for i in indices[clash][:10])
            raise Contradiction(
                f"{int(clash.sum())} samples were proved at eps {ball.eps}, and {what} (samples {named}). One of the two is "
                "wrong, so nothing is reported as certified; please report this with the model."
            )


def _batch(network: Network, images: np.ndarray) -> int:
    """Samples at once, so that the values of one walk stay within a stated number of bytes."""
    probe = torch.from_numpy(images[:1]).double().to(next(network.parameters(), torch.zeros(1)).device)
    values = walk.forward(network.plan(), [probe], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
    largest = max(v.numel() for v in values if isinstance(v, Tensor) and v.dim() and v.shape[0] == 1)
    return max(1, min(1024, CHUNK_BYTES // (8 * 8 * largest)))


def _chunks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _tensors(images: np.ndarray, labels: np.ndarray, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images).to(device, dtype), torch.from_numpy(labels).to(device)
