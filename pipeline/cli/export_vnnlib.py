"""``pipeline export-vnnlib``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.numbers import WHOLE


@click.command("export-vnnlib")
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--index", type=WHOLE, required=True, metavar="N", help="Which sample, as the report counts them.")
@click.option("--eps", metavar="E", help="Which of the report's radii, where it has several.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to.  [standard output]")
@click.option("--data", metavar="URI", help="The data, where they have moved since.")
@click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="As given to certify.")
def command(report: Path, index: int, eps: str | None, out: Path | None, data: str | None, layout: str | None) -> int:
    """Write one sample of a REPORT as a VNN-LIB property, for another verifier or for certify --property.

    \b
    pipeline export-vnnlib model.report --index 17 --eps 8/255 --out 17.vnnlib
    pipeline certify model.onnx --property 17.vnnlib
    """
    from pipeline.commands.export import export_vnnlib
    from pipeline.system.atomic import replace_atomically, require_replaceable

    if out is not None:
        require_replaceable(out)
    text = export_vnnlib(report, index, eps=eps, data=data, layout=layout)
    if out is None:
        click.echo(text, nl=False)
    else:
        replace_atomically(out, text.encode())
    return 0
