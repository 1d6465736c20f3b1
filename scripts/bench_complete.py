"""What branch and bound adds to cheaper bounds: networks of several recipes, trained here and certified by the whole ladder.

    python scripts/bench_complete.py mnist mnist.npz --eps 0.1 --recipes shi2021,fast,pgd --train 10000 --epochs 6 --samples 100

The data file holds x_train, y_train, x_test, y_test (uint8). Each network is ``pipeline retrain`` of one untrained ONNX file; the
file written is certified on the first test samples. Seconds are those of the rungs, by the clock: on a busy machine only their
ratios count. What has finished is not run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from reproduce import ROOT, Run, Setting, execute  # noqa: E402
from tournament import NETS  # noqa: E402


def first(data: Path, work: Path, train: int) -> Path:
    """A file of the first ``train`` samples of the training part, and the whole test part."""
    path = work.resolve() / f"{data.stem}-{train}.npz"
    if not path.exists():
        with np.load(data) as arrays:
            x, y = arrays["x_train"][:train], arrays["y_train"][:train]
            np.savez(path, x_train=x, y_train=y, x_test=arrays["x_test"], y_test=arrays["y_test"])
    return path


def certified(
    model: Path, data: Path, eps: str, options: tuple[str, ...], samples: int, domains: int
) -> dict[str, Any]:
    """The report of a network by the whole ladder."""
    kept = model.with_suffix(f".complete-{samples}-{domains}")
    if not (kept / "report.json").exists():
        command = [sys.executable, "-m", "pipeline", "certify", str(model), "--data", f"npz:{data}", "--eps", eps]
        ladder = ["--method", "complete", "--max-domains", str(domains), "--max-samples", str(samples)]
        with open(model.with_suffix(".certify.log"), "w") as log:
            subprocess.run(
                [*command, *ladder, *options, "--report", str(kept)],
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
    report: dict[str, Any] = json.loads((kept / "report.json").read_text())
    return report


def row(name: str, report: dict[str, Any]) -> str:
    """One line of the table: what the attacks, the bounds and branch and bound decide, and the seconds of the last two."""
    level = report["result"]["levels"][-1]
    rungs = {rung["name"]: rung for rung in level["rungs"]}
    before = next((r["certified"] for n, r in reversed(rungs.items()) if n != "complete"), 0)
    last = rungs.get("complete", {"certified": before, "decided": 0, "examined": 0})
    falsified = last["decided"] - (last["certified"] - before)
    attacked = sum(r["decided"] for n, r in rungs.items() if "pgd" in n)
    seconds = {n.partition("@")[0]: s for n, s in report["run"]["timings"].items()}
    bounds = sum(seconds.get(n, 0.0) for n in rungs if "pgd" not in n and n != "complete")
    more = f"+ {last['certified'] - before}" + (f", {falsified} falsified" if falsified else "")
    return (
        f"| {name} | {level['natural']['k']} of {level['natural']['n']} | {attacked} | {before} | {more} "
        f"| {last['examined'] - last['decided']} | {bounds:.1f} | {seconds.get('complete', 0.0):.1f} |"
    )


def lines(reports: dict[str, dict[str, Any]], eps: str) -> Iterator[str]:
    columns = "natural | attacks falsify | certified up to alpha-CROWN | by complete | left open | s of bounds | s of complete"
    yield f"| ε = {eps} | {columns} |"
    yield "|---" * 8 + "|"
    for name, report in reports.items():
        yield row(name, report)


@click.command()
@click.argument("net", type=click.Choice(list(NETS)))
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--eps", required=True, help="As retrain's and certify's.")
@click.option("--recipes", default="shi2021,fast,mtl-ibp,pgd", show_default=True)
@click.option("--train", default=10_000, show_default=True, help="Samples to train on.")
@click.option("--epochs", default=6, show_default=True)
@click.option("--samples", default=100, show_default=True, help="Test samples to certify.")
@click.option("--domains", default=1_000, show_default=True, help="Parts of a sample at most.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
def main(
    net: str, data: Path, eps: str, recipes: str, train: int, epochs: int, samples: int, domains: int, work: Path
) -> None:
    """Train a network by each of the recipes and certify it."""
    work.mkdir(parents=True, exist_ok=True)
    part, (network, options) = first(data, work, train), NETS[net]
    rows: dict[str, tuple[str, ...]] = {name: ("--recipe", name) for name in recipes.split(",")}
    setting = Setting(
        f"{net} {epochs} epochs of {train}", eps, rows, ("--epochs", str(epochs), "--method", "ibp", *options), network
    )
    reports = {}
    for name in rows:
        run = Run(setting, name, 0)
        execute(run, part, work, os.environ.get("OMP_NUM_THREADS", "1"), [])
        reports[name] = certified(work.resolve() / f"{run.name}.onnx", part, eps, options, samples, domains)
    click.echo("\n".join(lines(reports, eps)))


if __name__ == "__main__":
    main()
