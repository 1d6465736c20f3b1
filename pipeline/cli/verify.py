"""``pipeline verify``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli.numbers import WHOLE


@click.command("verify")
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), metavar="FILE", help="The model that was certified.")
@click.option("--data", metavar="URI", help="The data that it was certified on.")
@click.option(
    "--recheck", type=WHOLE, metavar="N", help="Make N proofs again; takes --model, and --data or --property."
)
@click.option("--seed", type=WHOLE, metavar="N", help="Draw the samples of an earlier --recheck again.  [by chance]")
@click.option(
    "--property",
    "property_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The property, where the report is about one.",
)
@click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="As given to certify.")
@click.option("--download", is_flag=True, help="Allow torchvision: and hf: data to be downloaded.")
@click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="What standard output gets."
)
def command(report: Path, style: str, **options: Any) -> int:
    """Check a REPORT, a report.json or its folder, against everything that it is about, and say what was not checked.

    \b
    pipeline verify model.report
    pipeline verify model.report --model model.onnx --data npz:test.npz --recheck 100
    pipeline verify unsafe.report --model model.onnx --property unsafe.vnnlib --recheck 1

    Digests, counts, laws and gates are computed again; counterexamples are run by ONNX Runtime. --recheck certifies N samples
    again, drawn by chance, each at its largest eps too where the report states it; a property has one proof. Exit 0 where
    everything agrees, 5 with a sentence for each fault, 3 for what cannot be read.
    """
    from pipeline.audit.findings import Findings
    from pipeline.cli.bars import Bars, consoles
    from pipeline.commands import verify
    from pipeline.results import clean, quoted

    out, errors = consoles()
    watch, findings = Bars(errors), Findings()
    with watch.bars:
        for event in verify(report, **options):
            if isinstance(event, Findings):
                findings = event
            else:
                watch.show(event)
    if style == "json":
        click.echo(quoted(json.dumps(dataclasses.asdict(findings), indent=2)))
        return findings.exit_code
    for word, sentences in (("ok", findings.checked), ("not checked", findings.unchecked), ("FAULT", findings.faults)):
        for sentence in sentences:
            out.print(f"{word:<11}  {clean(sentence, 1000)}", markup=False, highlight=False, soft_wrap=True)
    return findings.exit_code
