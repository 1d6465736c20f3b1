"""Counterexamples of a report, held against its data and its model; and proofs made again, on some of its samples."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from fractions import Fraction

import numpy as np
import torch

from pipeline import certify as verdicts
from pipeline.audit.findings import Findings
from pipeline.certify import PGD, Certification, Progress, certified_at
from pipeline.certify.prover import Prover
from pipeline.commands import reopen
from pipeline.commands.events import Note
from pipeline.commands.features import ball_in
from pipeline.commands.promises import Kernels, measured, rests_on_another_build
from pipeline.commands.subject import Subject, device_of
from pipeline.core.threat import Ball, L2Ball
from pipeline.errors import Contradiction, InputRejected
from pipeline.limits import limits, raised
from pipeline.methods import DECIDERS, DOMAINS, IBP, METHODS, bounding
from pipeline.results import Counterexamples, Report, Result, Samples, Verdict, clean


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
    for i, (point, x) in enumerate(zip(points.image, pixels, strict=True)):
        if point.shape != x.shape or not _inside(point, x, ball_in(result, Fraction(str(points.eps[i])))):
            yield f"counterexamples.npz: the point of sample {points.index[i]} lies outside its ball."


def _inside(point: np.ndarray, x: np.ndarray, ball: Ball) -> bool:
    if not np.isfinite(point).all():
        return False
    p, c = point.astype(np.float64).reshape(-1), x.astype(np.float64).reshape(-1)
    limits = ball.extent(torch.from_numpy(x[None]))
    radius, low, high = (np.broadcast_to(np.asarray(v), x.shape).reshape(-1) for v in limits)
    if (p < np.minimum(c, low)).any() or (p > np.maximum(c, high)).any():
        return False
    if isinstance(ball, L2Ball):
        return float(np.linalg.norm(p - c)) <= radius[0]
    # Where float64 is not sure, the difference is taken exactly.
    close = np.flatnonzero((np.abs(p - c) > radius * (1 - 1e-12)) & (p != c))
    return all(abs(Fraction(float(p[i])) - Fraction(float(c[i]))) <= ball.radius_of(int(i)) for i in close)


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


def recheck(
    made: Report, samples: Samples, pixels: np.ndarray, subject: Subject, count: int, seed: int, found: Findings
) -> Generator[Note | Progress, None, None]:
    """Certify some samples again, drawn by ``seed``, by the dearest method that decided one of them.

    The seed is the verifier's own: whoever could foresee the draw could write a report whose false certificates it misses.

    Where the report states each sample's largest certified eps, that eps is proved again too.
    """
    result = made.result
    if result.method.arithmetic == "none":
        found.skip("the proofs: arithmetic `none` has none")
        return
    rows = np.sort(np.random.default_rng(seed).permutation(len(samples))[:count])
    yield Note(f"{len(rows)} of {len(samples)} samples are proved again, drawn by chance; --seed {seed} draws the same")
    kernels = measured(subject, reopen.settings(result))
    if (said := rests_on_another_build(result.method.execution, kernels.on(subject.executed.execution))) is not None:
        yield Note(said, warning=True)
    how = _how(result, samples, rows, subject, kernels)
    balls = [ball_in(result, level.exact) for level in result.levels]
    events = verdicts.certify(
        subject.network, subject.predict, pixels[rows], samples.label[rows], balls, how, indices=samples.index[rows]
    )
    try:
        for event in events:
            if isinstance(event, Certification):
                if (note := _broken_here(samples, rows, event)) is not None:
                    yield note
                what = f"{len(rows)} samples certified again by {how.method}, drawn by seed {seed}: no verdict is contradicted"
                if found.weigh(what, _contradicted(samples, rows, event)) and samples.largest_eps is not None:
                    yield from _largest(result, samples, rows, pixels, subject, how, event, found)
            else:
                yield event
    except Contradiction as error:
        found.faults.append(f"certifying again: {error}")


def _how(result: Result, samples: Samples, rows: np.ndarray, subject: Subject, kernels: Kernels) -> verdicts.Strategy:
    settings, about = reopen.settings(result), result.method.attack
    most = limits().attack_steps
    if about is not None and about.steps * about.restarts > most:
        raise InputRejected(
            f"Proving again repeats the attack of a report, of at most {most} steps; this one states "
            f"{clean(f'{about.steps} in each of {about.restarts} starts', 80)}. {raised('attack_steps')}"
        )
    return verdicts.Strategy(
        settings.arithmetic,
        None
        if about is None
        else PGD(about.steps, about.restarts, reopen.step_of(about.step_size), about.seed, about.loss),
        device_of(settings),
        1 if subject.network.inputs[0].shape[0] is not None else None,
        method=_method(result, samples, rows),
        # The search is the same again but for the last bits, and takes about as many parts.
        domains=min(2 * (result.method.max_domains or DOMAINS), limits().domains),
        kernels=kernels.errors,
    )


def _method(result: Result, samples: Samples, rows: np.ndarray) -> str:
    if samples.decided_by is None:
        name = result.method.bounds[-1] if result.method.bounds else "nothing"
    else:
        proved = samples.decided_by[:, rows][samples.verdict[:, rows] == Verdict.CERTIFIED]
        name = DECIDERS[int(proved.max())] if proved.size else IBP
    if name not in METHODS:
        raise InputRejected(
            f"A sample is certified by one of {', '.join(METHODS)}; the report says {clean(name, 40)!r}."
        )
    return name


def _broken_here(samples: Samples, rows: np.ndarray, now: Certification) -> Note | None:
    """What the attack stated finds here and did not find there: on another machine it may take other steps."""
    if samples.survived is None:
        return None
    broken = (samples.survived[:, rows] & (now.samples.verdict == Verdict.FALSIFIED)).any(0)
    if not broken.any():
        return None
    first = samples.index[rows][broken.argmax()]
    return Note(
        f"{int(broken.sum())} samples are stated to survive the attack, and the same attack breaks them here; the first is "
        f"{first}. The attacked accuracy that is stated is too high",
        warning=True,
    )


def _contradicted(samples: Samples, rows: np.ndarray, now: Certification) -> Iterator[str]:
    index = samples.index[rows]
    # A run may have been allowed more parts than a stranger's report is.
    spent = any(one.why == "domains" for details in now.details for one in details.unfinished)
    more = f" {limits().domains} parts were not enough for some. {raised('domains')}" if spent else ""
    if (bad := now.samples.predicted != samples.predicted[rows]).any():
        yield f"the file gives {int(bad.sum())} samples another label than stated; the first is {index[bad.argmax()]}."
        return
    for row, found in enumerate(now.samples.verdict):
        was, certified = samples.verdict[row, rows], found == Verdict.CERTIFIED
        for bad, what, hint in (
            ((was == Verdict.CERTIFIED) & ~certified, "stated as certified, and cannot be certified again", more),
            ((was == Verdict.FALSIFIED) & certified, "stated as falsified, and are certified", ""),
        ):
            if bad.any():
                yield f"{int(bad.sum())} samples at eps {samples.eps[row]} are {what}; the first is {index[bad.argmax()]}.{hint}"


def _largest(
    result: Result,
    samples: Samples,
    rows: np.ndarray,
    pixels: np.ndarray,
    subject: Subject,
    how: verdicts.Strategy,
    now: Certification,
    found: Findings,
) -> Generator[Progress, None, None]:
    """Each sample's largest eps, where no level that was just certified again already contains it."""
    assert samples.largest_eps is not None
    stated, correct = samples.largest_eps[rows], samples.predicted[rows] == samples.label[rows]
    if ((np.isfinite(stated) & (stated >= 0)) != correct).any():
        found.faults.append("samples.npz: a largest eps is that of a correct sample, and a number of at least 0.")
        return
    contained = ~correct | (stated == 0)
    for ball, found_at in zip(now.balls, now.samples.verdict, strict=True):
        contained |= (found_at == Verdict.CERTIFIED) & (stated <= float(ball.eps))
    ask, what = np.flatnonzero(~contained), f"the largest eps of {len(rows)} samples, certified again"
    if not len(ask):
        found.checked.append(what)
        return
    prover = Prover(subject.network, pixels[rows][ask], samples.label[rows][ask], how)
    balls = [ball_in(result, Fraction(float(eps))) for eps in stated[ask]]
    methods = [method for method in bounding(METHODS) if method in result.method.bounds]
    proved = yield from certified_at(prover, balls, methods, subject.classes)

    def faults() -> Iterator[str]:
        if not proved.all():
            index = samples.index[rows][ask][~proved]
            yield f"{len(index)} samples cannot be certified again at their largest eps; the first is {index[0]}."

    found.weigh(what, faults())
