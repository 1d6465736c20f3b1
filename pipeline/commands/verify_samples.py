"""Checks the counterexamples of a report against its data and model, and certifies some of its samples again."""

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
from pipeline.commands.guarantee import Kernels, kernels_of, other_build_note
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
    findings: Findings,
) -> None:
    """Check that counterexamples lie in their balls, given pixels, and get the stated labels, given the file."""
    rows = np.flatnonzero(np.isin(samples.index, points.index))  # in the same order, which the audit has checked
    if pixels is not None:
        what = f"{len(points)} counterexamples lie within eps of their samples"
        findings.check(what, _outside(result, points, pixels[rows]))
    if subject is not None:
        findings.check(
            f"ONNX Runtime gives {len(points)} counterexamples the labels stated", _harmless(points, subject)
        )


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
    # Near the radius the difference is computed exactly.
    close = np.flatnonzero((np.abs(p - c) > radius * (1 - 1e-12)) & (p != c))
    return all(abs(Fraction(float(p[i])) - Fraction(float(c[i]))) <= ball.radius_of(int(i)) for i in close)


def _harmless(points: Counterexamples, subject: Subject) -> Iterator[str]:
    if points.image.shape[1:] != subject.sample_shape:
        yield "counterexamples.npz: its points do not have the shape of the model's input."
        return
    labels = subject.predict(points.image.astype(np.float32)).argmax(1)
    if (bad := np.flatnonzero(labels != points.predicted)).size:
        i = int(bad[0])
        yield (
            f"counterexamples.npz: the file gives {bad.size} points another label than stated; sample {points.index[i]} gets "
            f"{labels[i]}, stated is {points.predicted[i]}."
        )


def recheck(
    report: Report, samples: Samples, pixels: np.ndarray, subject: Subject, count: int, seed: int, findings: Findings
) -> Generator[Note | Progress, None, None]:
    """Certify ``count`` samples, drawn by ``seed``, again, by the most expensive method that certified one of them.

    The verifier chooses the seed: the author of a report who could foresee the draw could hide false certificates from it.
    Where the report states each sample's largest certified eps, that eps is proved again, too.
    """
    result = report.result
    if result.method.arithmetic == "none":
        findings.skip("the proofs: arithmetic `none` has none")
        return
    rows = np.sort(np.random.default_rng(seed).permutation(len(samples))[:count])
    yield Note(
        f"{len(rows)} of {len(samples)} samples, drawn at random, are proved again; --seed {seed} draws the same"
    )
    kernels = kernels_of(subject, reopen.settings(result))
    if (note := other_build_note(result.method.execution, kernels.on(subject.executed.execution))) is not None:
        yield Note(note, warning=True)
    strategy = _strategy(result, samples, rows, subject, kernels)
    balls = [ball_in(result, level.exact) for level in result.levels]
    events = verdicts.certify(
        subject.network,
        subject.predict,
        pixels[rows],
        samples.label[rows],
        balls,
        strategy,
        indices=samples.index[rows],
    )
    try:
        for event in events:
            if isinstance(event, Certification):
                if (warning := _broken_here(samples, rows, event)) is not None:
                    yield warning
                again = f"{len(rows)} samples certified again by {strategy.method}, drawn by seed {seed}"
                what = f"{again}: no verdict is contradicted"
                if findings.check(what, _contradictions(samples, rows, event)) and samples.largest_eps is not None:
                    yield from _largest(result, samples, rows, pixels, subject, strategy, event, findings)
            else:
                yield event
    except Contradiction as error:
        findings.faults.append(f"certifying again: {error}")


def _strategy(
    result: Result, samples: Samples, rows: np.ndarray, subject: Subject, kernels: Kernels
) -> verdicts.Strategy:
    settings, attack = reopen.settings(result), result.method.attack
    most = limits().attack_steps
    if attack is not None and attack.steps * attack.restarts > most:
        raise InputRejected(
            f"Proving again repeats the attack of a report, of at most {most} steps; this one states "
            f"{clean(f'{attack.steps} in each of {attack.restarts} starts', 80)}. {raised('attack_steps')}"
        )
    return verdicts.Strategy(
        settings.arithmetic,
        None
        if attack is None
        else PGD(attack.steps, attack.restarts, reopen.step_of(attack.step_size), attack.seed, attack.loss),
        device_of(settings),
        1 if subject.network.inputs[0].shape[0] is not None else None,
        method=_method(result, samples, rows),
        # The same search, except for last bits, takes about as many parts.
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
    """A warning where the stated attack breaks samples that are stated to survive it; machines differ in last bits."""
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


def _contradictions(samples: Samples, rows: np.ndarray, now: Certification) -> Iterator[str]:
    index = samples.index[rows]
    # A run may have been allowed more parts than ``verify`` allows.
    exhausted = any(one.why == "domains" for details in now.details for one in details.unfinished)
    more = f" {limits().domains} parts were not enough for some. {raised('domains')}" if exhausted else ""
    if (bad := now.samples.predicted != samples.predicted[rows]).any():
        yield f"the file gives {int(bad.sum())} samples another label than stated; the first is {index[bad.argmax()]}."
        return
    for row, again in enumerate(now.samples.verdict):
        was, certified = samples.verdict[row, rows], again == Verdict.CERTIFIED
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
    strategy: verdicts.Strategy,
    now: Certification,
    findings: Findings,
) -> Generator[Progress, None, None]:
    """Certify each sample again at its largest eps, unless that was just done at a larger one."""
    assert samples.largest_eps is not None
    stated, correct = samples.largest_eps[rows], samples.predicted[rows] == samples.label[rows]
    if ((np.isfinite(stated) & (stated >= 0)) != correct).any():
        findings.faults.append("samples.npz: a largest eps is that of a correct sample, and a number of at least 0.")
        return
    covered = ~correct | (stated == 0)
    for ball, verdict in zip(now.balls, now.samples.verdict, strict=True):
        covered |= (verdict == Verdict.CERTIFIED) & (stated <= float(ball.eps))
    open_, what = np.flatnonzero(~covered), f"the largest eps of {len(rows)} samples, certified again"
    if not len(open_):
        findings.checked.append(what)
        return
    prover = Prover(subject.network, pixels[rows][open_], samples.label[rows][open_], strategy)
    balls = [ball_in(result, Fraction(float(eps))) for eps in stated[open_]]
    methods = [method for method in bounding(METHODS) if method in result.method.bounds]
    proved = yield from certified_at(prover, balls, methods, subject.classes)

    def faults() -> Iterator[str]:
        if not proved.all():
            index = samples.index[rows][open_][~proved]
            yield f"{len(index)} samples cannot be certified again at their largest eps; the first is {index[0]}."

    findings.check(what, faults())
