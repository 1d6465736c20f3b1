"""``pipeline compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

SHOWN = 10


@click.command("compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="What standard output gets."
)
def command(before: Path, after: Path, style: str) -> int:
    """Show what changed from one report to another on the same samples: two versions of a model, or two models.

    \b
    pipeline compare old.report new.report
    pipeline compare fp32.report int8.report --format json

    Per metric: how many samples lost it and gained it, and the exact p-value of McNemar's test that losses and gains are
    equally likely. Reports on other data or samples are refused (3). For a gate: certify --baseline.
    """
    from rich.table import Table
    from rich.text import Text

    from pipeline.audit import compare
    from pipeline.cli.bars import consoles
    from pipeline.results import clean, dump

    comparison = compare(before, after)
    if style == "json":
        click.echo(dump(comparison), nl=False)
        return 0
    out, errors = consoles()
    for name, text in comparison.differing.items():
        errors.print(f"note: {name}: {clean(text)}", markup=False, highlight=False)
    sides = [f"{clean(side.file, 60)} ({side.model_sha256[:12]})" for side in (comparison.before, comparison.after)]
    out.print(Text(f"{' -> '.join(sides)}, {comparison.n} samples", style="bold"))
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("", "before", "after", "change", "lost", "gained", "p"):
        table.add_column(column, justify="left" if not column else "right")
    for change in comparison.changes:
        points = 100 * (change.after.k - change.before.k) / comparison.n
        cells = (change.before.value, change.after.value, f"{points:+.2f}", f"{change.lost}", f"{change.gained}")
        table.add_row(_name(change), *cells, change.p_value)
    out.print(table)
    for change in comparison.changes:
        for word, count, samples in (
            ("lost", change.lost, change.lost_samples),
            ("gained", change.gained, change.gained_samples),
        ):
            if count:
                out.print(Text(f"{_name(change)} {word}: samples {_few(samples, count)}"), soft_wrap=True)
        if change.classes:
            classes = ", ".join(f"{c.label} (-{c.lost} +{c.gained})" for c in change.classes)
            out.print(Text(f"{_name(change)} by class: {classes}"), soft_wrap=True)
    return 0


def _name(change: Any) -> str:
    return change.metric if change.eps is None else f"{change.metric}@{change.eps}"


def _few(samples: Sequence[int], count: int) -> str:
    return ", ".join(map(str, samples[:SHOWN])) + (f" and {count - SHOWN} more" if count > SHOWN else "")
