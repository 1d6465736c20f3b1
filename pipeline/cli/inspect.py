"""``pipeline inspect``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import flags_of, inputs_options, model_argument
from pipeline.errors import InputRejected


@click.command("inspect")
@model_argument
@click.option("--output", metavar="NAME", help="Look at one output of several.")
@inputs_options
@click.option(
    "--freeze",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a copy in which no caller can override weights, the data beside the file taken in.",
)
@click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="What standard output gets."
)
def command(model: Path, style: str, freeze: Path | None, **options: Any) -> int:
    """Show a MODEL's nodes, which of them bounds support, where weights come from, and where BatchNorm would go.

    Exit 0 for every classifier that can be imported, whatever bounds support, and 3 for a file that is none. A certificate is
    of one file's bytes: certify the copy that --freeze writes, not the original.
    """
    from pipeline.cli.progress import consoles
    from pipeline.commands import inspect

    inspection = inspect(model, flags_of(options), freeze_to=freeze)
    if freeze is not None:
        _, errors = consoles()
        note = f"note: {len(inspection.fixed)} weights that were inputs are fixed in {freeze}; deliver and certify that file"
        errors.print(note, markup=False, highlight=False, soft_wrap=True)
    if style == "json":
        from pipeline.results import quoted

        whole = dataclasses.asdict(inspection) | {"supported": inspection.supported}
        click.echo(quoted(json.dumps(whole, indent=2, default=str)))
    else:
        _show(inspection, consoles()[0])
    return 0 if inspection.classifier else InputRejected.exit_code


def _verdict(inspection: Any) -> tuple[str, str]:
    """What ``certify`` says of the file, and its colour: the first thing to know and the last."""
    from pipeline.results import clean

    if inspection.refused is None:
        return f"certify takes this file, in {inspection.mode}.", "bold green"
    return f"certify refuses this file, in {inspection.mode}: {clean(inspection.refused, 1000)}", "bold red"


def _show(inspection: Any, out: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from pipeline.results import clean

    opsets = ", ".join(f"{clean(k)} {v}" for k, v in inspection.opsets.items())
    out.print(Text(f"{clean(inspection.file)}   IR {inspection.ir_version}, opset {opsets}", style="bold"))
    for label, ports in (("input", inspection.inputs), ("output", inspection.outputs)):
        for port in ports:
            shape = " x ".join("n" if d is None else str(d) for d in port.shape)
            out.print(Text(f"  {label:<7} {clean(port.name)}   {str(port.dtype).removeprefix('torch.')}   {shape}"))
    verdict, style = _verdict(inspection)
    out.print(Text(f"  {verdict}", style=style))
    p = inspection.parity
    out.print(Text(f"  parity  {p.max_abs_difference:.2g} on outputs up to {p.scale:.3g}, {p.n} points, {p.provider}"))
    for step in inspection.preprocessing or ("none in the file; if the deployment normalises, say --mean and --std",):
        out.print(Text(f"  pixels  {clean(step, 400)}"))
    if inspection.cost is not None:
        _show_cost(inspection.cost, out)
    for note in inspection.notes:
        out.print(Text(f"  note    {clean(note)}"))
    nodes = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), title="Nodes", title_justify="left")
    for column in ("ONNX", "name", "becomes", "bounds", "BatchNorm"):
        nodes.add_column(column, overflow="fold")
    for row in inspection.nodes:
        bounds = Text("yes", style="green") if row.problem is None else Text(row.problem, style="red")
        nodes.add_row(clean(row.operator), clean(row.name, 80), clean(row.became, 120), bounds, _bn(row.bn))
    out.print(nodes)
    weights = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), title="Weights", title_justify="left")
    for column in ("initialiser", "shape", "trains"):
        weights.add_column(column, overflow="fold")
    for weight in inspection.weights:
        shape = " x ".join(map(str, weight.shape))
        trains = (
            Text("yes", style="green") if weight.frozen is None else Text(f"no: {clean(weight.frozen)}", style="yellow")
        )
        weights.add_row(clean(weight.initializer, 80), shape, trains)
    out.print(weights)
    missing = sum(row.problem is not None for row in inspection.nodes)
    supported = "all supported" if not missing else f"{missing} without a rule: certify and retrain refuse this file"
    out.print(Text(f"{len(inspection.nodes)} nodes, {supported}."))
    count = sum(row.bn is not None and row.bn.status == "inserted" for row in inspection.nodes)
    if count:
        out.print(Text(f"retrain would insert {count} BatchNorms, and fold them into their layers in the end."))
    out.print(Text(verdict, style=style))


def _show_cost(cost: Any, out: Any) -> None:
    from rich.text import Text

    from pipeline.results.text import count

    each = f"{count(cost.multiply_adds)} multiply-adds a sample, {count(cost.parameters)} parameters"
    certify = f"{cost.certify_bytes / 2**20:.3g} MiB for {count(cost.certify_batch)} samples at once by IBP"
    out.print(Text(f"  cost    {each}"))
    out.print(Text(f"  memory  {certify}, {cost.train_bytes / 2**20:.3g} MiB for a training batch of 128, estimated"))


def _bn(placement: Any) -> str:
    if placement is None:
        return ""
    words = {
        "covered": "has one",
        "inserted": "gets one",
        "classifier": "classifier",
        "left": f"none: {placement.reason}",
    }
    return words[placement.status]
