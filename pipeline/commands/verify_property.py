"""``pipeline verify`` on the report of a property: checks digests, the consistency of its fields, and the witness."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.audit.audit import restated, sealed
from pipeline.audit.findings import Findings
from pipeline.certify import Progress
from pipeline.certify.witness import check
from pipeline.commands.events import Note, PropertyDone
from pipeline.commands.guarantee import other_build_note
from pipeline.commands.properties import decide_opened
from pipeline.commands.subject import opened
from pipeline.errors import InputRejected
from pipeline.limits import limits, raised
from pipeline.onnx import runtime
from pipeline.onnx.model_file import ModelFile
from pipeline.results.property import PropertyReport, PropertyResult
from pipeline.vnnlib import PropertyText, counterexample, load, parse

T = TypeVar("T")
NUMBER = re.compile(r"-?(\d{1,1200}(\.\d{1,1200})?([eE][-+]?\d{1,4})?|\d{1,1200}/[1-9]\d{0,1200})", re.ASCII)


def verify_property(
    report: Path,
    text: str,
    raw: dict[str, Any],
    *,
    model: Path | None,
    property_file: Path | None,
    recheck: bool = False,
) -> Iterator[Note | Progress | Findings]:
    """Check the report of a property; the last event is ``Findings``. Raises InputRejected (3) for files that cannot be read."""
    findings = Findings()
    if not findings.check("the digest of the result, and the spelling of report.json", sealed(text, raw)):
        yield findings
        return
    try:
        result = PropertyReport.model_validate(raw).result
    except ValidationError as error:
        raise InputRejected(f"This is no report: {error.errors()[0]['msg']}. Certify again.") from error
    findings.faults += restated(raw["result"], result)
    folder = report if report.is_dir() else report.parent
    findings.check("verdict, boxes and witness agree", _laws(result, folder))
    file = _read("model", model, opened, lambda f: f.digests.sha256 == result.model.sha256, findings)
    property_text = _read("property", property_file, load, lambda f: f.sha256 == result.property.sha256, findings)
    if property_text is not None and property_file is not None and not findings.faults:
        findings.check(
            "the numbers of inputs, outputs and boxes of the property",
            _counts(result, property_text, property_file.name),
        )
    if result.witness is not None and (model is None or property_file is None):
        findings.skip("the witness: that takes --model and --property")
    elif findings.faults:
        findings.skip(f"the verdict {result.verdict}: its model or property is not the one that the report states")
    elif result.witness is not None and file is not None and property_text is not None:
        what = "ONNX Runtime and the judge find the witness in the unsafe set"
        findings.check(what, _refused(result, file, property_text))
    elif result.verdict != "holds":
        findings.skip(f"the verdict {result.verdict}: it claims nothing")
    elif not recheck or file is None or property_text is None or property_file is None:
        findings.skip("the proof: --recheck 1 with --model and --property makes it again")
    else:
        yield from _decide_again(result, file, property_file.name, property_text, findings)
    yield findings


def _decide_again(
    result: PropertyResult, file: ModelFile, name: str, text: PropertyText, findings: Findings
) -> Generator[Note | Progress, None, None]:
    """Decide the property as ``certify --property`` did, by the methods that the report states."""
    parts = re.search(r"(?a:\b(\d{1,9}) parts)", result.decided_by or "")
    most = limits().domains
    if parts and int(parts[1]) > most:
        raise InputRejected(
            f"Proving again divides a region into at most {most} parts; this report states {parts[1]}. {raised('domains')}"
        )
    flags: dict[str, Any] = {
        "method": result.methods[-1],
        "arithmetic": result.arithmetic,
        "provider": result.provider,
        "attack": result.attack is not None,
        # The same search, except for last bits, takes about as many parts as the report states.
        "max_domains": max(1, min(2 * int(parts[1]), most)) if parts else 1,
    }
    if result.execution is not None:
        flags["runtime_optimization"] = result.execution.optimization
    if result.output is not None:
        flags["output"] = result.output
    for event in decide_opened(file, name, text, flags):
        if not isinstance(event, PropertyDone):
            yield event
            continue
        now = event.report.result
        if (note := other_build_note(result.execution, now.execution)) is not None:
            yield Note(note, warning=True)
        if now.verdict == "timeout":
            findings.skip("the proof: the time budget of pipeline.toml ended it")
        else:
            findings.check("the property, decided again: it holds", _other_verdict(now))


def _other_verdict(now: PropertyResult) -> Iterator[str]:
    if now.verdict == "violated":
        yield "the verdict is holds, and a counterexample was found."
    elif now.verdict != "holds":
        yield f"the verdict is holds, and {now.boxes_open} of {now.property.boxes} boxes cannot be refuted again."


def _laws(result: PropertyResult, folder: Path) -> Iterator[str]:
    if (result.verdict == "violated") != (result.witness is not None):
        yield f"report.json: the verdict is {result.verdict}, with{'' if result.witness else 'out'} a witness."
    if result.verdict == "holds" and (result.boxes_open or result.arithmetic == "none"):
        yield f"report.json: the verdict is holds, with {result.boxes_open} boxes open in arithmetic {result.arithmetic}."
    stored, witness = folder / "counterexample.txt", result.witness
    if witness is None:
        if stored.exists():
            yield "counterexample.txt: it is there, and the report has no witness."
        return
    if (len(witness.x), len(witness.y)) != (result.property.inputs, result.property.outputs):
        yield "report.json: the witness has other numbers of inputs or outputs than the property."
    elif not stored.is_file() or stored.read_bytes() != counterexample(_exact(witness.x), _exact(witness.y)).encode():
        yield "counterexample.txt: it is not the witness of the report."


def _read(
    what: str, path: Path | None, read: Callable[[Path], T], same: Callable[[T], bool], findings: Findings
) -> T | None:
    """The file at ``path`` if it is the report's, else None; enters the check into ``findings``."""
    if path is None:
        findings.skip(f"the {what}: name it with --{what}")
        return None
    if not path.is_file():
        raise InputRejected(f"The {what} is a file; {str(path)!r} is none. Name it with --{what}.")
    file, fault = None, f"{path.name}: this is not the {what} of the report: its SHA-256 is another."
    try:
        file = read(path)
    except InputRejected as error:
        fault = f"{path.name}: it cannot be read, so it is not the {what} of the report: {error}"
    right = file is not None and same(file)
    findings.check(f"the digest of the {what}", () if right else (fault,))
    return file if right else None


def _counts(result: PropertyResult, text: PropertyText, name: str) -> Iterator[str]:
    question, stated = parse(text.text), result.property
    counts = (question.inputs, question.outputs, len(question.cases), question.vacuous)
    if counts != (stated.inputs, stated.outputs, stated.boxes, stated.vacuous):
        yield f"{name}: it has {counts} inputs, outputs, boxes and vacuous disjuncts, the report states other numbers."


def _refused(result: PropertyResult, file: ModelFile, text: PropertyText) -> Iterator[str]:
    witness = result.witness
    assert witness is not None
    level = "all" if result.execution is None else result.execution.optimization
    session = runtime.session(file, provider="cuda" if result.provider == "cuda" else "cpu", level=level)
    outputs = None if result.output is None else [result.output]
    judgement = check(text.text, _exact(witness.x), lambda point: session.flat(point, outputs))
    if judgement.refused is not None:
        yield f"the witness is no counterexample: {judgement.refused}."


def _exact(values: tuple[str, ...]) -> list[Fraction]:
    if bad := [value for value in values if not NUMBER.fullmatch(value)]:
        raise InputRejected(
            f"A witness is made of decimals or fractions; this one holds {bad[0][:40]!r}. Certify again."
        )
    return [Fraction(value) for value in values]
