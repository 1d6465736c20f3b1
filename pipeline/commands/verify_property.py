"""``pipeline verify`` on the report of a property: digests, what follows from what, and the witness judged once more."""

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
from pipeline.commands.events import Decided, Note
from pipeline.commands.promises import rests_on_another_build
from pipeline.commands.properties import decide_read
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
    """Check the report of a property; the last event is ``Findings``. Raises InputRejected (3) for what cannot be read."""
    found = Findings()
    if not found.weigh("the digest of the result, and the spelling of report.json", sealed(text, raw)):
        yield found
        return
    try:
        result = PropertyReport.model_validate(raw).result
    except ValidationError as error:
        raise InputRejected(f"This is no report: {error.errors()[0]['msg']}. Certify again.") from error
    found.faults += restated(raw["result"], result)
    folder = report if report.is_dir() else report.parent
    found.weigh("verdict, boxes and witness agree", _laws(result, folder))
    file = _read("model", model, opened, lambda f: f.digests.sha256 == result.model.sha256, found)
    asked = _read("property", property_file, load, lambda f: f.sha256 == result.property.sha256, found)
    if asked is not None and property_file is not None and not found.faults:
        found.weigh("what the property holds once it is read again", _asked(result, asked, property_file.name))
    if result.witness is not None and (model is None or property_file is None):
        found.skip("the witness: that takes --model and --property")
    elif found.faults:
        found.skip(f"the verdict {result.verdict}: what it is about is not what the report says")
    elif result.witness is not None and file is not None and asked is not None:
        what = "ONNX Runtime and the judge find the witness in the unsafe set"
        found.weigh(what, _refused(result, file, asked))
    elif result.verdict != "holds":
        found.skip(f"the verdict {result.verdict}: it claims nothing")
    elif not recheck or file is None or asked is None or property_file is None:
        found.skip("the proof: --recheck 1 with --model and --property makes it again")
    else:
        yield from _decided_again(result, file, property_file.name, asked, found)
    yield found


def _decided_again(
    result: PropertyResult, file: ModelFile, name: str, asked: PropertyText, found: Findings
) -> Generator[Note | Progress, None, None]:
    """Look for a counterexample and for the proof as ``certify --property`` did, by the methods that the report names."""
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
        # The search is the same again but for the last bits, and takes about as many parts as the report states.
        "max_domains": max(1, min(2 * int(parts[1]), most)) if parts else 1,
    }
    if result.execution is not None:
        flags["runtime_optimization"] = result.execution.optimization
    if result.output is not None:
        flags["output"] = result.output
    for event in decide_read(file, name, asked, flags):
        if not isinstance(event, Decided):
            yield event
            continue
        now = event.report.result
        if (said := rests_on_another_build(result.execution, now.execution)) is not None:
            yield Note(said, warning=True)
        if now.verdict == "timeout":
            found.skip("the proof: the time budget of pipeline.toml ended it")
        else:
            found.weigh("the property, decided again: it holds", _otherwise(now))


def _otherwise(now: PropertyResult) -> Iterator[str]:
    if now.verdict == "violated":
        yield "the verdict is holds, and a counterexample was found."
    elif now.verdict != "holds":
        yield f"the verdict is holds, and {now.boxes_open} of {now.property.boxes} boxes cannot be refuted again."


def _laws(result: PropertyResult, folder: Path) -> Iterator[str]:
    if (result.verdict == "violated") != (result.witness is not None):
        yield f"report.json: the verdict is {result.verdict}, with{'' if result.witness else 'out'} a witness."
    if result.verdict == "holds" and (result.boxes_open or result.arithmetic == "none"):
        yield f"report.json: the verdict is holds, with {result.boxes_open} boxes open in arithmetic {result.arithmetic}."
    kept, witness = folder / "counterexample.txt", result.witness
    if witness is None:
        if kept.exists():
            yield "counterexample.txt: it is there, and the report has no witness."
        return
    if (len(witness.x), len(witness.y)) != (result.property.inputs, result.property.outputs):
        yield "report.json: the witness has other numbers of inputs or outputs than the property."
    elif not kept.is_file() or kept.read_bytes() != counterexample(_exact(witness.x), _exact(witness.y)).encode():
        yield "counterexample.txt: it is not the witness of the report."


def _read(
    what: str, path: Path | None, read: Callable[[Path], T], same: Callable[[T], bool], found: Findings
) -> T | None:
    """A file that was named, read once, if it is the report's."""
    if path is None:
        found.skip(f"the {what}: name it with --{what}")
        return None
    if not path.is_file():
        raise InputRejected(f"The {what} is a file; {str(path)!r} is none. Name it with --{what}.")
    file, fault = None, f"{path.name}: this is not the {what} of the report: its SHA-256 is another."
    try:
        file = read(path)
    except InputRejected as error:
        fault = f"{path.name}: it cannot even be read, and so is not the {what} of the report: {error}"
    right = file is not None and same(file)
    found.weigh(f"the digest of the {what}", () if right else (fault,))
    return file if right else None


def _asked(result: PropertyResult, asked: PropertyText, name: str) -> Iterator[str]:
    question, stated = parse(asked.text), result.property
    now = (question.inputs, question.outputs, len(question.cases), question.vacuous)
    if now != (stated.inputs, stated.outputs, stated.boxes, stated.vacuous):
        yield f"{name}: it reads as {now} inputs, outputs, boxes and vacuous disjuncts, the report says others."


def _refused(result: PropertyResult, file: ModelFile, asked: PropertyText) -> Iterator[str]:
    witness = result.witness
    assert witness is not None
    level = "all" if result.execution is None else result.execution.optimization
    session = runtime.session(file, provider="cuda" if result.provider == "cuda" else "cpu", level=level)
    chosen = None if result.output is None else [result.output]
    judged = check(asked.text, _exact(witness.x), lambda point: session.flat(point, chosen))
    if judged.refused is not None:
        yield f"the witness is none: {judged.refused}."


def _exact(values: tuple[str, ...]) -> list[Fraction]:
    if bad := [value for value in values if not NUMBER.fullmatch(value)]:
        raise InputRejected(
            f"A witness is made of decimals or fractions; this one holds {bad[0][:40]!r}. Certify again."
        )
    return [Fraction(value) for value in values]
