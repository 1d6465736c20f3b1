"""The answer to ``certify --property``, as text or JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cli.status import Ending

SHOWN = 8
EMPTY = "it is empty: no input is meant, so that nothing was checked; is the property the one you mean?"


def answer(ending: Ending, model: Path, vnnlib: Path, flags: Mapping[str, Any], report: Path | None, style: str) -> int:
    """Decide a property, print what is known, and return 0 (holds), 1 (violated) or 4 (unknown, timeout)."""
    from pipeline.cli.progress import Watch, consoles
    from pipeline.commands.events import PropertyDone
    from pipeline.commands.properties import decide
    from pipeline.results import dump
    from pipeline.system import run_folder

    ending.will_be_in(
        report or run_folder.property_folder(vnnlib), command="certify --property", named=report is not None
    )
    out, errors = consoles()
    watch = Watch(errors)
    with watch.bars:
        for event in decide(model, vnnlib, flags, report=report, argv=sys.argv[1:]):
            if isinstance(event, PropertyDone):
                done = event
            else:
                watch.show(event)
    result = done.report.result
    empty = "" if result.property.boxes else ", its unsafe set being empty: nothing was checked"
    ending.reason, ending.result_sha256 = f"the property {result.verdict}{empty}", done.report.result_sha256
    if style == "json":
        sys.stdout.write(dump(done.report))
    else:
        _show(done, out)
    return done.exit_code


def _show(done: Any, out: Any) -> None:
    from rich.text import Text

    from pipeline.results import clean

    result = done.report.result
    colour = {"holds": "bold green", "violated": "bold red"}.get(result.verdict, "bold yellow")
    question = result.property
    out.print(
        Text(f"{result.verdict}", style=colour).append(
            f"   {clean(question.file)} of {clean(result.model.file)}", "bold"
        )
    )
    boxes = f"{question.boxes} boxes, {question.conjunctions} conjunctions, {question.inputs} inputs, {question.outputs} outputs"
    lines = [f"unsafe set: {boxes}"]
    if result.verdict == "holds":
        by = f"by {result.decided_by}, {result.boxes_bounded} bounds computed" if result.decided_by else EMPTY
        lines += [by, result.statement]
    elif result.verdict == "violated":
        lines.append("this input is in the unsafe set: ONNX Runtime ran the file itself, and no tolerance was granted")
        for name, values in (("X", result.witness.x), ("Y", result.witness.y)):
            lines += [f"{name}_{i} = {value}" for i, value in enumerate(values[:SHOWN])]
            lines += [f"... and {len(values) - SHOWN} more"] if len(values) > SHOWN else []
        if result.witness.rounded:
            lines.append(f"{result.witness.rounded} inputs are no float32: the file was given the nearest")
    else:
        methods = f"{', '.join(result.methods)} left {result.boxes_open} boxes open after {result.boxes_bounded} bounds"
        attack = "no counterexample was found" if result.attack else "no counterexample was looked for (--no-attack)"
        lines += [methods, attack]
        if result.unfinished is not None:
            from pipeline.render.unknown import of_box

            lines.append(f"box {result.unfinished.index}: {of_box(result.unfinished)}")
        more = (
            "More of --time-budget"
            if result.verdict == "timeout"
            else "--arithmetic real, --restarts and --attack-steps"
        )
        lines.append(f"{more} may decide it; so may a model trained to be certifiable: pipeline retrain.")
    lines.append(f"report: {done.folder / 'report.json'}")
    for line in lines:
        out.print(Text(f"  {line}"))
