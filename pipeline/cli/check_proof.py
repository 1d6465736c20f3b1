"""``pipeline check-proof``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from pipeline.errors import Contradiction, Incomplete, UsageError


@click.command("check-proof")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="REPORT",
    help="Hold the proofs against this report too, each of whose certified samples must have one.",
)
@click.option("--data", metavar="URI", help="Compare the samples with these data too; takes --report.")
@click.option("--partial", is_flag=True, help="Accept that certified samples of the report have no proof.")
@click.option("--download", is_flag=True, help="Allow torchvision: and hf: data to be downloaded.")
@click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="What standard output gets."
)
def command(
    model: Path, folder: Path, report: Path | None, data: str | None, partial: bool, download: bool, style: str
) -> int:
    """Replay the proofs in DIR, which `certify --proof DIR` wrote, against MODEL: no code that made them is used.

    \b
    pipeline certify model.onnx --data npz:test.npz --eps 2/255 --proof proofs
    pipeline check-proof model.onnx proofs --report model.report --data npz:test.npz

    Exit 0 where every proof holds, 5 with a sentence for each that does not, 4 where there are none or a certified sample of
    the report has none, 3 for what the checker does not read.
    """
    from pipeline.commands.check_proof import Unproved, check_proof
    from pipeline.results import clean, quoted

    if partial and report is None:
        raise UsageError("--partial is about the certified samples of a report; name it with --report.")
    listed = []
    for one in check_proof(model, folder, report=report, data=data, download=download):
        listed.append(one)
        about = f"sample {one.index}, label {one.label}, eps {one.eps}"
        if style == "text" and isinstance(one, Unproved):
            click.echo(f"NO PROOF  {clean(about)}")
        elif style == "text" and not isinstance(one, Unproved) and one.fault:
            click.echo(f"FAULT  {clean(f'{about}: {one.fault}', 1000)}")
    unproved = [one for one in listed if isinstance(one, Unproved)]
    replays = [one for one in listed if not isinstance(one, Unproved)]
    faults = sum(bool(one.fault) for one in replays)
    if style == "json":
        click.echo(quoted(json.dumps([dataclasses.asdict(one) for one in listed], indent=2)))
    if not replays:
        raise Incomplete("the folder holds no proofs, so nothing was checked; certify with --proof again.")
    if faults:
        raise Contradiction(f"{faults} of {len(replays)} proofs do not hold. Certify again.")
    if style == "text":
        leaves, least = sum(one.leaves for one in replays), min(one.margin for one in replays)
        click.echo(
            f"{len(replays)} proofs hold, of {leaves} leaves in all; the least bound of a margin is {least:.3g}."
        )
        if report is None:
            click.echo("Not compared with a report: name it with --report.")
        else:
            certified = len({one.index for one in listed})
            click.echo(f"Certified samples of the report: {certified}, {len(unproved)} without a proof.")
        if data is None:
            click.echo("Samples not compared with data: name them with --data and --report.")
    if unproved and not partial:
        raise Incomplete(
            f"every certified sample of a report needs a proof; {len(unproved)} have none at the largest eps that they are "
            "certified at. Certify with --proof again, or accept it by --partial."
        )
    return 0
