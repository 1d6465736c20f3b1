"""MNIST on a CPU: what the paper's recipe attains, what each of its ideas is worth, and how short the warmup may be.

    python scripts/reproduce_mnist.py mnist.npz --work runs [--jobs 2] [--only short] [--table]

``mnist.npz`` holds x_train, y_train, x_test, y_test (uint8). Every arm is one ``pipeline retrain`` of the same untrained
ONNX file (models/small_cnn.py), certified from the file it wrote on the whole test set; the final epoch counts, nothing is
selected. The first epoch is clean, then eps grows over the ramp. Arms that have finished are not run again. What it attained,
where, and in what time: docs/results.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"long": ("0.3", 30, 10), "short": ("0.3", 10, 3), "eps-0.1": ("0.1", 30, 10)}
ARMS = {
    "shi2021": ["--recipe", "shi2021"],
    "minus initialisation": ["--recipe", "shi2021", "--no-ibp-init"],
    "minus full BatchNorm": ["--recipe", "shi2021", "--no-full-bn"],
    "minus regularisers": ["--recipe", "shi2021", "--no-tightness", "--no-balance"],
    "vanilla-ibp": ["--recipe", "vanilla-ibp"],
}


@dataclass(frozen=True)
class Run:
    """One training: a setting, an arm, a seed."""

    setting: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.setting}.{self.arm.replace(' ', '-')}.{self.seed}"

    def command(self, data: Path, model: Path, out: Path) -> list[str]:
        eps, epochs, ramp = SETTINGS[self.setting]
        run = [
            "--epochs",
            str(epochs),
            "--warmup-start",
            "2",
            "--warmup-length",
            str(ramp),
            "--held-out",
            "0",
            "--seed",
            str(self.seed),
        ]
        to = ["--data", f"npz:{data}", "--eps", eps, "--out", str(out), "--device", "cpu"]
        return [sys.executable, "-m", "pipeline", "retrain", str(model), *to, *run, *ARMS[self.arm]]


def planned() -> list[Run]:
    """Three seeds of the recipe and of the baseline at eps 0.3, one of everything else; short runs first."""
    runs = []
    for setting in ("short", "long", "eps-0.1"):
        for arm in ARMS:
            if setting == "eps-0.1" and arm.startswith("minus"):
                continue
            several = setting != "eps-0.1" and not arm.startswith("minus")
            runs += [Run(setting, arm, seed) for seed in range(3 if several else 1)]
    return sorted(runs, key=lambda r: (r.seed, list(SETTINGS).index(r.setting) if r.setting != "short" else -1))


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/mnist"), show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Runs side by side, each with its share of the cores.")
@click.option("--only", help="Only runs whose name contains this.")
@click.option("--table", "table_only", is_flag=True, help="Print the table of what has finished, and run nothing.")
def main(data: Path, work: Path, jobs: int, only: str | None, table_only: bool) -> None:
    work.mkdir(parents=True, exist_ok=True)
    model = work / "small_cnn.onnx"
    if not model.exists():
        export(model)
    runs = [run for run in planned() if only is None or only in run.name]
    if not table_only:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda run: train(run, data.resolve(), model, work, jobs), runs))
    click.echo(table(runs, work))


def export(path: Path) -> None:
    """The untrained network, as anyone would export it."""
    import torch

    sys.path.insert(0, str(ROOT))
    from models.small_cnn import SmallCNN

    torch.manual_seed(0)
    net = SmallCNN().eval()
    batch = torch.export.Dim("batch")
    torch.onnx.export(net, (torch.zeros(2, 1, 28, 28),), path, dynamic_shapes=({0: batch},), external_data=False)


def train(run: Run, data: Path, model: Path, work: Path, jobs: int) -> None:
    """One ``pipeline retrain``; its log and its report stay beside its file."""
    out, threads = work / f"{run.name}.onnx", str(max(1, len(os.sched_getaffinity(0)) // jobs))
    began = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    with open(work / f"{run.name}.log", "w") as log:
        code = subprocess.run(run.command(data, model, out), stdout=log, stderr=log, env=environment).returncode
    click.echo(f"{run.name}: exit {code} after {time.monotonic() - began:.0f} s")


def table(runs: list[Run], work: Path) -> str:
    """Natural, attacked and certified accuracy by setting and arm: mean, and range over seeds where there are several."""
    lines = [
        "| setting | arm | seeds | natural % | attacked % | certified % | s an epoch |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, (eps, epochs, ramp) in SETTINGS.items():
        for arm in ARMS:
            found = [r for r in (report(run, work) for run in runs if (run.setting, run.arm) == (setting, arm)) if r]
            if not found:
                continue
            cells = [spread([f[name] for f in found]) for name in ("natural", "attacked", "certified")]
            seconds = statistics.median(s for f in found for s in f["seconds"])
            lines.append(
                f"| eps {eps}, {epochs} epochs, ramp {ramp} | {arm} | {len(found)} | {' | '.join(cells)} | {seconds:.1f} |"
            )
    return "\n".join(lines)


def report(run: Run, work: Path) -> dict | None:
    path = work / f"{run.name}.report" / "report.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text())["result"]
    level = result["levels"][-1]
    found = {name: 100 * level[name]["k"] / level[name]["n"] for name in ("natural", "attacked", "certified")}
    return found | {"seconds": [row["seconds"] for row in result["training"]["curves"]]}


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
