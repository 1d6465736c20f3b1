"""``pipeline report``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from pipeline.errors import UsageError

FILE = click.Path(path_type=Path, allow_dash=True)


@click.command("report")
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--html", type=FILE, metavar="FILE", help="One page: no network, no script.")
@click.option("--md", type=FILE, metavar="FILE", help="Markdown, for the page of a job or a merge request.")
@click.option("--junit", type=FILE, metavar="FILE", help="JUnit XML: a test case a gate, one for contradictions.")
@click.option("--intoto", type=FILE, metavar="FILE", help="An in-toto statement, test-result v0.1, ready to be signed.")
@click.option("--data", metavar="URI", help="The data that it was certified on: --html then shows samples.")
@click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="As given to certify.")
def command(
    report: Path,
    html: Path | None,
    md: Path | None,
    junit: Path | None,
    intoto: Path | None,
    data: str | None,
    layout: str | None,
) -> int:
    """Show a REPORT, a report.json or its folder, again: in the terminal, or as the files asked for.

    \b
    pipeline report model.report
    pipeline report model.report --md - --junit gates.xml --intoto statement.json

    Everything is drawn from report.json alone, whose digest is checked first (exit 5); it holds no pixel, so that pictures of
    samples take --data. FILE may be - for standard output.
    """
    from pipeline import render as draws
    from pipeline.cli.bars import consoles
    from pipeline.results import read
    from pipeline.system.atomic import replace_atomically, require_replaceable

    whole = read(report)
    if html is None and (data is not None or layout is not None):
        raise UsageError("--data and --layout give --html its pictures of samples; name the page with --html FILE.")
    thumbnails: draws.Pictures = {}
    if data is not None:
        from pipeline.commands.reopen import pictures

        thumbnails = pictures(report, data, layout=layout)
    outputs = (
        (html, partial(draws.render, pictures=thumbnails)),
        (md, draws.markdown),
        (junit, draws.junit),
        (intoto, draws.statement),
    )
    files = [(path, draw) for path, draw in outputs if path is not None]
    if sum(str(path) == "-" for path, _ in files) > 1:
        raise UsageError("- is standard output, and takes one rendering; name files for the others.")
    for path, _ in files:
        if str(path) != "-":
            require_replaceable(path)
    if not files:
        consoles()[0].print(draws.panel(whole))
    # Each is drawn before any is written.
    for path, text in [(path, draw(whole)) for path, draw in files]:
        if str(path) == "-":
            sys.stdout.write(text)
        else:
            replace_atomically(path, text.encode("utf-8"))
    if intoto is not None:
        name = "statement.json" if str(intoto) == "-" else str(intoto)
        click.echo(f"note: to sign it: {draws.signing(name)}", err=True)
    return 0
