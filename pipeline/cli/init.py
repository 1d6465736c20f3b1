"""``pipeline init``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.numbers import Whole
from pipeline.errors import UsageError


@click.command("init")
@click.argument("server", type=click.Choice(["github", "gitlab", "slurm", "kubernetes"]))
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--data", metavar="URI", help="For pipeline.toml: what the job certifies on.")
@click.option("--eps", default="8/255", show_default=True, metavar="E[,E...]", help="For pipeline.toml.")
@click.option(
    "--fail-under", multiple=True, metavar="GATE", help="For pipeline.toml, such as certified=0.3; repeatable."
)
@click.option(
    "--install",
    metavar="REQUIREMENT",
    help="What pip installs in the job; for kubernetes, an image that holds it.  [where this pipeline came from]",
)
@click.option(
    "--shards", type=Whole(1), metavar="N", help="Share the samples out among N machines.  [slurm, kubernetes: 4]"
)
@click.option(
    "--out", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE", help="Instead of the usual place."
)
@click.option("--force", is_flag=True, help="Overwrite the job's file; pipeline.toml is never overwritten.")
def command(
    server: str,
    model: Path | None,
    data: str | None,
    eps: str,
    fail_under: tuple[str, ...],
    install: str | None,
    shards: int | None,
    out: Path | None,
    force: bool,
) -> int:
    """Write a job that certifies MODEL for SERVER, and pipeline.toml where there is none.

    \b
    pipeline init github model.onnx --data npz:test.npz --eps 8/255 --fail-under certified=0.3
    pipeline init gitlab --out -
    pipeline init slurm model.onnx --data npz:test.npz --shards 16

    The job runs `pipeline certify`, shows the gates, and keeps the report. Without MODEL, the one .onnx file here.
    """
    from pipeline.commands import job as jobs
    from pipeline.system.atomic import replace_atomically, require_replaceable

    target = out or jobs.PATHS[server]
    path = model or jobs.only_model()
    text = jobs.job(server, path, install, shards)
    if str(target) == "-":
        click.echo(text, nl=False)
        return 0
    if target.exists() and not force:
        raise UsageError(
            f"{target} exists; see what it lacks with --out -, name another --out, or overwrite it with --force."
        )
    files = {target: text}
    if not jobs.has_settings(path):
        files[jobs.SETTINGS] = jobs.settings(data, eps, fail_under)
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        require_replaceable(file)
        replace_atomically(file, content.encode("utf-8"))
        click.echo(f"wrote {file}", err=True)
    if jobs.SETTINGS not in files:
        click.echo(f"left {jobs.SETTINGS} as it is", err=True)
    elif not fail_under:
        click.echo(f"note: no gate was asked: add fail_under to {jobs.SETTINGS}, or the job never fails", err=True)
    click.echo(f"Try it here first: pipeline certify {path} --report robustness", err=True)
    return 0
