"""``pipeline check-proof``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from pipeline.errors import Contradiction, Incomplete


@click.command("check-proof")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="REPORT", help="Hold the proofs against this report too."
)
@click.option("--data", metavar="URI", help="Compare the samples with these data too; takes --report.")
@click.option("--download", is_flag=True, help="Allow torchvision: and hf: data to be downloaded.")
@click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="What standard output gets."
)
def command(model: Path, folder: Path, report: Path | None, data: str | None, download: bool, style: str) -> int:
    """Replay the proofs in DIR, which `certify --proof DIR` wrote, against MODEL: no code that made them is used.

    \b
    pipeline certify model.onnx --data npz:test.npz --eps 2/255 --proof proofs
    pipeline check-proof model.onnx proofs --report model.report --data npz:test.npz

    Exit 0 where every proof holds, 5 with a sentence for each that does not, 4 where there are none, 3 for what the checker
    does not read.
    """
    from pipeline.commands.check_proof import check_proof
    from pipeline.results import clean, quoted

    found = []
    for one in check_proof(model, folder, report=report, data=data, download=download):
        found.append(one)
        if style == "text" and one.fault:
            said = f"sample {one.index}, label {one.label}, eps {one.eps}: {one.fault}"
            click.echo(f"FAULT  {clean(said, 1000)}")
    faults = sum(bool(one.fault) for one in found)
    if style == "json":
        click.echo(quoted(json.dumps([dataclasses.asdict(one) for one in found], indent=2)))
    if not found:
        raise Incomplete("the folder holds no proofs, so nothing was checked; certify with --proof again.")
    if faults:
        raise Contradiction(f"{faults} of {len(found)} proofs do not hold. Certify again.")
    if style == "text":
        leaves, least = sum(one.leaves for one in found), min(one.margin for one in found)
        click.echo(f"{len(found)} proofs hold, of {leaves} leaves in all; the least bound of a margin is {least:.3g}.")
        if report is None:
            click.echo("Not compared with a report: name it with --report.")
        if data is None:
            click.echo("Samples not compared with data: name them with --data and --report.")
    return 0
