"""A search for false certificates, with parity and attack off: what is certified is tried on ONNX Runtime as it is deployed.

Each suspect is imported as ``certify`` imports it and certified at the largest radius that a bisection finds. The file is then
run at many points of each box: at every level of optimisation, with subnormal numbers as zero, alone and in batches. Any
other label than the one certified is a false certificate; its suspect is made smaller and kept, with the points.
"""

from __future__ import annotations

import itertools
import multiprocessing
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from pipeline.certify import Strategy
from pipeline.certify.prover import Prover
from pipeline.commands.guarantee import require_guarantee
from pipeline.commands.subject import open_model
from pipeline.core.feature_box import FeatureBox, FeatureRadii
from pipeline.core.threat import LinfBall
from pipeline.errors import PipelineError
from pipeline.onnx import model_file, parity
from pipeline.onnx.kernels import OPERATORS
from pipeline.rules import require
from pipeline.settings import Settings as Asked
from tests.fuzz import suspect_bare, suspect_numbers, suspect_pieces, suspect_sizes  # noqa: F401  (enrols the pieces)
from tests.fuzz.suspects import Suspect, drawn

LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
KERNELS = dict.fromkeys(OPERATORS, (1.1e-6, 4e-7))
"""Twice the largest error that a sweep of a million inputs finds of any of these kernels."""
SAMPLES, GRID, ALONE = 3, 4096, 8
"""Samples of each suspect, steps of the bisection, and points tried in a batch of their own."""
COMPANIES = (2, 3, 8)


@dataclass
class Figures:
    """What was tried, and what was refused, by reason."""

    suspects: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    certified: int = 0
    boxes: int = 0
    points: int = 0
    false: int = 0

    def __str__(self) -> str:
        asked = max(self.suspects, 1)
        lines = [
            f"{self.suspects} suspects: {sum(self.refused.values()) / asked:.0%} refused, {self.certified / asked:.0%} with a "
            f"certificate; {self.boxes} boxes, {self.points} evaluations, {self.false} false"
        ]
        return "\n".join(lines + [f"  {count:6} {reason}" for reason, count in self.refused.most_common(25)])


@dataclass(frozen=True, eq=False)
class Found:
    """Points of a certified box to which the runtime gives another label."""

    how: str
    sample: np.ndarray
    label: int
    eps: Fraction
    points: np.ndarray


@contextmanager
def parity_off() -> Iterator[None]:
    """Believe the import, whatever a comparison with the runtime says: the second net is not under test."""
    held, asked = parity.MeasuredParity.holds, parity.require
    parity.MeasuredParity.holds, parity.require = property(lambda self: True), lambda *a, **k: None  # type: ignore[assignment]
    try:
        yield
    finally:
        parity.MeasuredParity.holds, parity.require = held, asked  # type: ignore[method-assign]


def session(content: bytes, level: str, *, flushed: bool = False) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, "ORT_" + level)
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if flushed:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _single(run: ort.InferenceSession) -> bool:
    """Whether a file takes one sample at a time."""
    return all(isinstance(d, int) for d in run.get_inputs()[0].shape)


def _ball(eps: Fraction, features: FeatureRadii | None) -> LinfBall:
    return LinfBall(eps) if features is None else FeatureBox(eps, features=features)


def _ends(x: np.ndarray, eps: Fraction, features: FeatureRadii | None) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest float32 of each entry that lies in the real box."""
    radius, low, high = (1.0, 0.0, 1.0) if features is None else (features.radius, features.low, features.high)
    ends = []
    for sign in (-1, 1):
        end = np.clip(x.astype(np.float64) + sign * float(eps) * radius, low, high)
        near = end.astype(np.float32)
        ends.append(np.where((near > end) if sign > 0 else (near < end), np.nextafter(near, x), near))
    return ends[0], ends[1]


def logits(run: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    """A row for each sample, one by one where the file fixes its batch or has none; of several inputs, ``x`` holds rows."""
    given = sorted(run.get_inputs(), key=lambda port: "int" in port.type)  # as rows have them
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    shapes = [tuple(d for d in port.shape if isinstance(d, int)) for port in given]
    if len(given) > 1:
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        parts = np.split(x, ends[:-1], axis=1)
        feeds = {
            p.name: v.reshape(len(x), *s).astype(types.get(p.type, np.float32))
            for p, v, s in zip(given, parts, shapes, strict=True)
        }
        return run.run(None, feeds)[0].reshape(len(x), -1)
    single = _single(run)
    parts = x.reshape(len(x), *shapes[0]) if single else x[None]
    return np.concatenate(
        [run.run(None, {given[0].name: part})[0].reshape(1 if single else len(x), -1) for part in parts]
    )


def labels(run: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    """-1 where an output is not finite."""
    y = logits(run, x)
    return np.where(np.isfinite(y).all(1), y.argmax(1), -1)


def _flushing(pipe: Any) -> None:
    """In a process of its own, since the setting outlives its session: labels with subnormal numbers as zero."""
    while (task := pipe.recv()) is not None:
        content, x = task
        try:
            pipe.send(labels(session(content, "ENABLE_ALL", flushed=True), x))
        except Exception as error:
            pipe.send(str(error))


class Search:
    """One search: a folder for what is found, and how many points a box is tried at."""

    def __init__(self, folder: Path, points: int, figures: Figures):
        self.folder, self.count, self.figures = folder, points, figures
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.child = context.Process(target=_flushing, args=(theirs,), daemon=True)
        self.child.start()

    def close(self) -> None:
        self.pipe.send(None)
        self.child.join(5)

    def examine(self, suspect: Suspect) -> Found | None:
        """The first false certificate of a suspect. Counts what was refused."""
        self.figures.suspects += 1
        rng = np.random.default_rng([suspect.seed, 5])
        try:
            content = suspect.build().SerializeToString()
        except Exception as error:
            return self._refused(f"cannot be built: {type(error).__name__}")
        try:
            runs = {level: session(content, level) for level in LEVELS}
            features = suspect.features()
            x = suspect.samples(rng, SAMPLES)
            said = np.array([labels(runs["ENABLE_ALL"], x[i : i + 1])[0] for i in range(SAMPLES)])
        except Exception as error:
            return self._refused(f"the runtime refuses it: {str(error)[:60]!r}")
        x, said = x[said >= 0], said[said >= 0]
        if not len(x):
            return self._refused("no finite output")
        try:
            largest = self._largest(content, x, said, suspect)
        except PipelineError as error:
            return self._refused(re.sub(r"'[^']*'|\d+", "*", str(error))[:110])
        except (RuntimeError, ValueError, IndexError, KeyError) as error:
            print(
                f"a fault behind an import that parity would refuse, perhaps: {suspect}: {str(error)[:200]}", flush=True
            )
            return self._refused(f"FAULT {type(error).__name__}")
        rows = np.flatnonzero(largest > 0)
        self.figures.certified += len(rows) > 0
        for i in rows:
            eps = Fraction(int(largest[i]), GRID)
            self.figures.boxes += 1
            try:
                ends = _ends(x[i], eps, features)
                points = self._points(x[i], ends, runs["ENABLE_ALL"], int(said[i]), rng)
                for how, got, at in self._labels(content, runs, points, x, rng):
                    self.figures.points += len(got)
                    if (wrong := got != said[i]).any():
                        return Found(how, x[i], int(said[i]), eps, at[wrong][:8])
            except Exception as error:
                return Found(f"the runtime fails: {str(error)[:90]!r}", x[i], int(said[i]), eps, x[i : i + 1])
        return None

    def _refused(self, why: str) -> None:
        self.figures.refused[why] += 1

    def _largest(self, content: bytes, x: np.ndarray, said: np.ndarray, suspect: Suspect) -> np.ndarray:
        """By sample, the largest step of the grid at which it was certified, 0 for none."""
        path = self.folder / "suspect.onnx"
        path.write_bytes(content)
        with parity_off():
            asked = Asked(data="none", input=suspect.perturbed if suspect.beside else None)
            subject = open_model(model_file.read(path), asked)
            require_guarantee(subject, asked)
        require(subject.network)
        fixed = 1 if subject.network.inputs[0].shape[0] is not None else None
        settings = Strategy(attack=None, batch=fixed, method="crown", kernels=KERNELS)
        prover = Prover(subject.network, x, said, settings)
        low, high = np.zeros(len(x), int), np.full(len(x), GRID)
        for method in ("ibp", "crown"):
            if method == "crown" and not prover.has_relaxations():
                break
            high = np.full(len(x), GRID)
            while (open_ := np.flatnonzero(high - low > np.maximum(low // 16, 1))).size:
                middle = np.where(low == 0, np.maximum(high // 8, 1), (low + high) // 2)
                balls = [_ball(Fraction(int(m), GRID), suspect.features()) for m in middle[open_]]
                found = prover.margins(method, balls, open_)
                proved = np.isfinite(found) & (found > 0)
                low[open_[proved]] = middle[open_[proved]]
                high[open_[~proved]] = middle[open_[~proved]]
        return low

    def _points(
        self,
        x: np.ndarray,
        ends: tuple[np.ndarray, np.ndarray],
        run: ort.InferenceSession,
        label: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """float32 points of the real box: random, corners, edges, neighbours of ends, sweeps of an axis, and a greedy descent."""
        low, high = ends
        count, size = self.count // (8 if _single(run) else 1), x.size
        u = rng.random((count, *x.shape), np.float32)
        kind = rng.integers(6, size=(count, *[1] * x.ndim))
        corner = np.where(u < 0.5, low, high)
        edge = np.where(rng.random(u.shape) < 0.3, corner, low + u * (high - low))
        inner = np.nextafter(corner, x)
        tiny = np.clip(np.float32(2.0) ** -rng.integers(20, 149, u.shape).astype(np.float32), low, high)
        points = np.select(
            [kind == 0, kind == 1, kind == 2, kind == 3], [corner, edge, inner, tiny], low + u * (high - low)
        )
        axes, steps = min(size, 6), max(32, count // 8)
        sweep = np.repeat(x[None], axes * steps, 0).reshape(axes, steps, size)
        for row, at in enumerate(rng.permutation(size)[:axes]):
            sweep[row, :, at] = np.linspace(low.flat[at], high.flat[at], steps, dtype=np.float32)
        points = np.concatenate([points, sweep.reshape(-1, *x.shape)]).astype(np.float32)
        for _ in range(3):
            worst = points[np.argsort(self._margin(run, points[-count:], label))[:32]] if count else points[:1]
            near = np.repeat(worst, 16, 0)
            moved = near + rng.standard_normal(near.shape, np.float32) * (high - low) * np.float32(
                10.0 ** -rng.integers(1, 5)
            )
            points = np.concatenate([points, np.where(rng.random(near.shape) < 0.3, moved, near)])
        return np.clip(points, low, high)

    @staticmethod
    def _margin(run: ort.InferenceSession, points: np.ndarray, label: int) -> np.ndarray:
        y = logits(run, points)
        return y[:, label] - np.delete(y, label, 1).max(1)

    def _labels(
        self,
        content: bytes,
        runs: dict[str, ort.InferenceSession],
        points: np.ndarray,
        others: np.ndarray,
        rng: np.random.Generator,
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Labels of the points: all together at each level and flushed, some alone, some in small companies."""
        few = points[rng.permutation(len(points))[:ALONE]]
        for level, run in runs.items():
            yield f"{level}, alone", np.concatenate([labels(run, p[None]) for p in few]), few
        for level, run in runs.items():
            yield f"{level}, all {len(points)}", labels(run, points), points
        self.pipe.send((content, points))
        if not isinstance(got := self.pipe.recv(), str):
            yield "subnormal numbers as zero", got, points
        if _single(runs["ENABLE_ALL"]):
            return
        for size, place in itertools.product(COMPANIES, (0, -1)):
            batches = rng.random((len(few), size, *points.shape[1:]), np.float32)
            batches[:, :-1] = others[rng.integers(len(others), size=(len(few), size - 1))]
            batches = np.roll(batches, 1, axis=1) if place == 0 else batches
            batches[:, place] = few
            got = np.array([labels(runs["ENABLE_ALL"], batch)[place] for batch in batches])
            yield f"in a batch of {size}, place {place}", got, few

    def shrink(self, suspect: Suspect, end: float) -> Suspect:
        """The same fault with fewer pieces, and a plain head where that will do."""
        for smaller in itertools.chain(
            (replace(suspect, pieces=suspect.pieces[:i] + suspect.pieces[i + 1 :]) for i in range(len(suspect.pieces))),
            [replace(suspect, head="plain")] if suspect.head != "plain" else [],
        ):
            if time.monotonic() < end and self._fails(smaller):
                return self.shrink(smaller, end)
        return suspect

    def _fails(self, suspect: Suspect) -> bool:
        try:
            return Search.examine(self, suspect) is not None
        except (PipelineError, RuntimeError, ValueError):
            return False


def search(
    seconds: float, seed: int, folder: Path, *, among: Sequence[str] = (), points: int = 2000, most: int = 20
) -> Figures:
    """Suspects from ``seed`` on until the time is over or ``most`` false certificates are found, each kept in ``folder``.

    Made of all pieces and heads, or of those named in ``among``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures, began = Figures(), time.monotonic()
    tried = Search(folder, points, figures)
    try:
        while time.monotonic() - began < seconds and figures.false < most:
            suspect = drawn(seed, among)
            found = tried.examine(suspect)
            if found is not None:
                figures.false += 1
                spare = Search(folder, points, Figures())
                small = spare.shrink(suspect, time.monotonic() + 20)
                last = spare.examine(small) or found
                spare.close()
                name = f"false-{seed}"
                onnx.save(small.build(), folder / f"{name}.onnx")
                np.savez(folder / f"{name}.npz", x=last.sample, y=last.label, points=last.points, eps=str(last.eps))
                print(
                    f"FALSE after {time.monotonic() - began:.0f} s: {small}\n  {last.how}, eps {last.eps}; {folder / name}.onnx",
                    flush=True,
                )
            seed += 1
    finally:
        tried.close()
    return figures
