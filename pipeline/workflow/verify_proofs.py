"""Proofs of a report made again, on some of its samples."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from fractions import Fraction

import numpy as np

from pipeline import certify as verdicts
from pipeline.certify import PGD, Certification, Progress, certified_at
from pipeline.certify.prover import Prover
from pipeline.choices import METHODS, Choice
from pipeline.errors import Contradiction, InputRejected
from pipeline.limits import limits, raised
from pipeline.report import CERTIFIED, DECIDERS, FALSIFIED, Report, Result, Samples, clean
from pipeline.review.findings import Findings
from pipeline.threat import BALLS, Ball
from pipeline.workflow import again
from pipeline.workflow.events import Note
from pipeline.workflow.kernels import measured
from pipeline.workflow.subject import Subject, device_of


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
    how, balls = _how(result, samples, rows, subject), [_ball(result, level.exact) for level in result.levels]
    events = verdicts.certify(
        subject.network, subject.predict, pixels[rows], samples.label[rows], balls, how, indices=samples.index[rows]
    )
    try:
        for event in events:
            if isinstance(event, Certification):
                what = f"{len(rows)} samples certified again by {how.method}, drawn by seed {seed}: no verdict is contradicted"
                if found.weigh(what, _contradicted(samples, rows, event)) and samples.largest_eps is not None:
                    yield from _largest(result, samples, rows, pixels, subject, how, event, found)
            else:
                yield event
    except Contradiction as error:
        found.faults.append(f"certifying again: {error}")


def _how(result: Result, samples: Samples, rows: np.ndarray, subject: Subject) -> verdicts.Settings:
    settings, about = again.settings(result), result.method.attack
    most = limits().attack_steps
    if about is not None and about.steps * about.restarts > most:
        raise InputRejected(
            f"Proving again repeats the attack of a report, of at most {most} steps; this one states "
            f"{clean(f'{about.steps} in each of {about.restarts} starts', 80)}. {raised('attack_steps')}"
        )
    return verdicts.Settings(
        settings.arithmetic,
        None
        if about is None
        else PGD(about.steps, about.restarts, again.step_of(about.step_size), about.seed, about.loss),
        device_of(settings),
        1 if subject.network.inputs[0].shape[0] is not None else None,
        method=_method(result, samples, rows),
        kernels=measured(subject, settings).errors,
    )


def _ball(result: Result, eps: Fraction) -> Ball:
    return BALLS[result.threat.norm](eps, *result.threat.range)


def _method(result: Result, samples: Samples, rows: np.ndarray) -> Choice:
    if samples.decided_by is None:
        name = result.method.bounds[-1] if result.method.bounds else "nothing"
    else:
        proved = samples.decided_by[:, rows][samples.verdict[:, rows] == CERTIFIED]
        name = DECIDERS[int(proved.max())] if proved.size else "ibp"
    if name not in METHODS:
        raise InputRejected(
            f"A sample is certified by one of {', '.join(METHODS)}; the report says {clean(name, 40)!r}."
        )
    return name  # type: ignore[return-value]


def _contradicted(samples: Samples, rows: np.ndarray, now: Certification) -> Iterator[str]:
    index = samples.index[rows]
    if (bad := now.predicted != samples.predicted[rows]).any():
        yield f"the file gives {int(bad.sum())} samples another label than stated; the first is {index[bad.argmax()]}."
        return
    for level, row in zip(now.levels, range(len(samples.eps)), strict=True):
        was, certified = samples.verdict[row, rows], level.verdicts == verdicts.Verdict.CERTIFIED
        for bad, what in (
            ((was == CERTIFIED) & ~certified, "stated as certified, and cannot be certified again"),
            ((was == FALSIFIED) & certified, "stated as falsified, and are certified"),
        ):
            if bad.any():
                yield f"{int(bad.sum())} samples at eps {samples.eps[row]} are {what}; the first is {index[bad.argmax()]}."


def _largest(
    result: Result,
    samples: Samples,
    rows: np.ndarray,
    pixels: np.ndarray,
    subject: Subject,
    how: verdicts.Settings,
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
    for level in now.levels:
        contained |= (level.verdicts == verdicts.Verdict.CERTIFIED) & (stated <= float(level.ball.eps))
    ask, what = np.flatnonzero(~contained), f"the largest eps of {len(rows)} samples, certified again"
    if not len(ask):
        found.checked.append(what)
        return
    prover = Prover(subject.network, pixels[rows][ask], samples.label[rows][ask], how)
    balls = [_ball(result, Fraction(float(eps))) for eps in stated[ask]]
    methods = [method for method in METHODS if method in result.method.bounds]
    proved = yield from certified_at(prover, balls, methods, subject.classes)

    def faults() -> Iterator[str]:
        if not proved.all():
            index = samples.index[rows][ask][~proved]
            yield f"{len(index)} samples cannot be certified again at their largest eps; the first is {index[0]}."

    found.weigh(what, faults())
