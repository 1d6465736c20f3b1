"""A report checked against itself: digests, counts, laws and gates recomputed from the files of its own folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from pipeline import package
from pipeline.audit.findings import Findings
from pipeline.audit.rejudge import rejudged
from pipeline.errors import Contradiction, InputRejected, PipelineError
from pipeline.methods import DECIDERS
from pipeline.results.result import Report, Result
from pipeline.results.samples import (
    COUNTEREXAMPLES_NAME,
    FILE_NAME,
    Counterexamples,
    Samples,
    Verdict,
    read_counterexamples,
    read_samples,
)
from pipeline.results.statements import ASSUMPTIONS, SAMPLES, region_of
from pipeline.results.summarise import LevelDetails, largest_eps, levels, per_class
from pipeline.results.text import quoted
from pipeline.results.write import intact

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')
CLOSE = 1e-9
"""Quantiles are interpolated, and another build of numpy may round them otherwise."""


def sealed(text: str, raw: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the digest of a report, of whatever kind, and with the spelling of its text.

    Two spellings of one number have one digest: the text must be the one that the program writes, white space apart.
    """
    if not intact(raw):
        yield "report.json: the result is not the one of its digest, result_sha256: one of the two was changed."
    # Earlier versions wrote other letters than those of ASCII as they are.
    spelled = [
        quoted(json.dumps(raw, separators=(",", ":"))),
        json.dumps(raw, ensure_ascii=False, separators=(",", ":")),
    ]
    if "".join(TOKEN.findall(text)) not in spelled:
        yield "report.json: something is spelled otherwise than the program writes it, though it means the same."


def restated(raw: Any, result: BaseModel) -> Iterator[str]:
    """What is wrong with the kinds of numbers: 1 and 1.0 are one number to RFC 8785, and one of them is what the field holds."""

    def same(stated: Any, held: Any) -> bool:
        if isinstance(stated, dict) and isinstance(held, dict):
            return all(same(value, held[name]) for name, value in stated.items() if name in held)
        if isinstance(stated, list) and isinstance(held, list):
            return len(stated) == len(held) and all(map(same, stated, held))
        return type(stated) is type(held)

    if not same(raw, result.model_dump(mode="json")):
        yield "report.json: a whole number is written as a fraction, or the reverse: something was changed."


def audit(
    folder: Path, text: str, raw: dict[str, Any], findings: Findings
) -> tuple[Report | None, Samples | None, Counterexamples | None]:
    """Check everything that needs no model and no data; what could be read, for further checks.

    Raises InputRejected (3) for what is no report although its digest is right.
    """
    if not findings.check("the digest of the result, and the spelling of report.json", sealed(text, raw)):
        return None, None, None
    try:
        report = Report.model_validate(raw)
    except ValidationError as error:
        raise InputRejected(f"This is no report: {error.errors()[0]['msg']}. Certify again.") from error
    except Contradiction as error:
        findings.faults.append(str(error))
        return None, None, None
    result = report.result
    findings.faults += restated(raw["result"], result)
    findings.checked.append("the laws between levels, classes and verdict")
    findings.check("the kind of report", _kind(report))
    findings.check("that range, statement and selection are those of one run", _of_one_run(result))
    samples = _samples(folder, result, findings)
    findings.check(
        f"{len(result.gates)} gates, evaluated again" if result.gates else "that no gate was asked", rejudged(result)
    )
    return report, samples, _counterexamples(folder, result, samples, findings)


def _kind(report: Report) -> Iterator[str]:
    if (report.kind == "retraining") != (report.result.training is not None):
        yield f"report.json: its kind is {report.kind!r}, and its result is of the other kind."


def _of_one_run(result: Result) -> Iterator[str]:
    """What is said twice, or follows from something else that is said."""
    if result.threat.range != result.preprocessing.range:
        yield f"report.json: pixels lie in {result.preprocessing.range}, and the attacker's in {result.threat.range}."
    data, selection = result.data, result.data.selection
    expected = data.n_total if selection.method == "all" else min(selection.max_samples or 0, data.n_total)
    of_run = data.n_evaluated if result.shard is None else result.shard.n_run
    if of_run != expected:
        yield f"report.json: {of_run} samples of {data.n_total} were evaluated, its selection takes {expected}."
    # Another version may have worded it otherwise.
    if result.tool.version == package.version() and result.method.execution is not None:
        statement = SAMPLES[result.method.arithmetic].format(
            region=region_of(result.threat), execution=result.method.execution
        )
        if result.method.statement != statement:
            yield "report.json: its statement of what certified means is not the one of this program."
        if missing := set(ASSUMPTIONS[result.method.arithmetic]) - set(result.method.assumptions):
            yield f"report.json: it leaves out what its statement assumes: {min(missing)}"


def _samples(folder: Path, result: Result, findings: Findings) -> Samples | None:
    if result.samples is None:
        findings.faults.append("report.json: it describes no samples, so that its counts rest on nothing.")
        return None
    try:
        samples = read_samples(folder / FILE_NAME, result.samples)
    except PipelineError as error:
        findings.faults.append(f"{FILE_NAME}: {error}")
        return None
    findings.checked.append(
        f"{FILE_NAME}: its digest, and the laws of {len(samples)} samples: certified, survived, correct"
    )
    findings.check("certified and attacked fall, sample by sample, as eps grows", _monotone(samples))
    findings.check("counts, classes, margins and rungs, computed again from the samples", _counts(result, samples))
    return samples


def _monotone(samples: Samples) -> Iterator[str]:
    certified = samples.verdict == Verdict.CERTIFIED
    known = certified if samples.undecided is None else certified | samples.undecided
    columns = [("certified", certified, known)]
    if samples.survived is not None:
        columns.append(("survived", samples.survived, samples.survived))
    for name, strong, weak in columns:
        for low, high in pairwise(range(len(samples.eps))):
            if (bad := strong[high] & ~weak[low]).any():
                first = samples.index[bad.argmax()]
                yield (
                    f"{FILE_NAME}: {int(bad.sum())} samples are {name} at eps {samples.eps[high]} and not at "
                    f"{samples.eps[low]}; the first is {first}."
                )


def _counts(result: Result, samples: Samples) -> Iterator[str]:
    if samples.eps != tuple(level.eps for level in result.levels) or len(samples) != result.data.n_evaluated:
        yield f"{FILE_NAME}: it holds other samples or eps than the result."
        return
    if not len(samples) or len(set(samples.index.tolist())) != len(samples):
        yield f"{FILE_NAME}: it names a sample twice, or none."
        return
    if unknown := {r.name for x in result.levels for r in x.rungs} - set(DECIDERS):
        yield f"report.json: it names a rung that there is not: {sorted(unknown)[0][:40]!r}."
        return
    for row, level in enumerate(result.levels):
        unknown_here = set(samples.index[samples.verdict[row] == Verdict.UNKNOWN].tolist())
        if other := [one.index for one in level.unfinished if one.index not in unknown_here]:
            yield f"report.json: it says why sample {other[0]} is unknown at eps {level.eps}, and it is none of the unknown."
    details = [
        LevelDetails(x.layers, x.rounding, tuple((r.name, r.examined) for r in x.rungs), x.unfinished)
        for x in result.levels
    ]
    tolerance = result.largest_eps.tolerance if result.largest_eps else ""
    for name, stated, counted in (
        ("levels", result.levels, levels(samples, details=details)),
        ("per_class", result.per_class, per_class(samples)),
        ("largest_eps", result.largest_eps, largest_eps(samples, tolerance=tolerance)),
        ("samples.columns", result.samples and result.samples.columns, samples.described.columns),
    ):
        for where, a, b in differing(_plain(stated), _plain(counted), name):
            yield f"report.json: {where} is stated as {a}; the samples give {b}."


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def differing(a: Any, b: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two values of JSON are not the same; floats may differ by what their last bits say."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from differing(a.get(key), b.get(key), f"{where}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (one, two) in enumerate(zip(a, b, strict=True)):
            yield from differing(one, two, f"{where}[{i}]")
    elif isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE):
        return
    elif a != b:
        yield where, str(a)[:60], str(b)[:60]


def _counterexamples(
    folder: Path, result: Result, samples: Samples | None, findings: Findings
) -> Counterexamples | None:
    if result.counterexamples is None:
        if samples is not None and (samples.verdict == Verdict.FALSIFIED).any():
            findings.faults.append("report.json: samples are falsified, and it describes no counterexamples.")
        elif (folder / COUNTEREXAMPLES_NAME).exists():
            findings.faults.append(f"{COUNTEREXAMPLES_NAME}: it is there, and the report describes none.")
        return None
    try:
        read = read_counterexamples(folder / COUNTEREXAMPLES_NAME, result.counterexamples)
    except PipelineError as error:
        findings.faults.append(f"{COUNTEREXAMPLES_NAME}: {error}")
        return None
    if samples is None:
        return None
    passed = findings.check(
        f"{COUNTEREXAMPLES_NAME}: its digest, one point for each falsified sample", _points(read, samples)
    )
    return read if passed else None


def _points(read: Counterexamples, samples: Samples) -> Iterator[str]:
    falsified = samples.verdict == Verdict.FALSIFIED
    rows = np.flatnonzero(falsified.any(0))
    if not np.array_equal(read.index, samples.index[rows]):
        yield f"{COUNTEREXAMPLES_NAME}: its samples are not the falsified ones."
        return
    if len(read.image) != len(rows) or len(read.predicted) != len(rows) or len(read.eps) != len(rows):
        yield f"{COUNTEREXAMPLES_NAME}: its columns are of different lengths."
        return
    smallest = [samples.eps[int(falsified[:, row].argmax())] for row in rows]
    if [Fraction(str(e)) for e in read.eps] != [Fraction(e) for e in smallest]:
        yield f"{COUNTEREXAMPLES_NAME}: a point is stated for another eps than the smallest that falsifies its sample."
    if (read.predicted == samples.label[rows]).any():
        yield f"{COUNTEREXAMPLES_NAME}: a point is stated to keep the label of its sample."
