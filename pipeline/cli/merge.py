"""``pipeline merge``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.cli.status import Ending


@click.command("merge")
@click.argument("shards", nargs=-1, metavar="REPORT...", type=click.Path(path_type=Path))
@click.option("--report", type=click.Path(path_type=Path), metavar="DIR", help="Where the report goes.  [MODEL.report]")
@click.option(
    "--baseline", type=click.Path(path_type=Path), metavar="REPORT", help="The one that the shards were started with."
)
@click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="What standard output gets."
)
@click.pass_obj
def command(ending: Ending, /, shards: tuple[Path, ...], report: Path | None, baseline: Path | None, style: str) -> int:
    """Put the reports of `certify --shard 1/N` to `N/N` together, and decide the gates that they were started with.

    \b
    pipeline certify model.onnx --data npz:test.npz --eps 8/255 --fail-under certified=0.3 --shard 1/2
    pipeline certify model.onnx --data npz:test.npz --eps 8/255 --fail-under certified=0.3 --shard 2/2
    pipeline merge model.shard-*.report

    The report is bit for bit that of one process. Every shard must be there once (4 where one is missing), unchanged (5), and of
    the same model, data, settings, program and runtime (3). Exit codes of gates are those of certify.
    """
    from pipeline.cli.progress import Watch, consoles, present
    from pipeline.commands import merge

    out, errors = consoles()
    if report is not None:
        ending.will_be_in(report, command="merge", named=True)
    done = Watch(errors)(merge(shards, report=report, baseline=baseline, argv=sys.argv[1:]))
    if report is None:
        ending.will_be_in(done.folder, command="merge", named=False)
    ending.reached(done)
    return present(done, style, out)
