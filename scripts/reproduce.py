"""The tables of docs/results.md that need training, each by one command.

    python scripts/reproduce.py mnist mnist.npz --work runs [--jobs 2] [--only fast] [--show]

The data file holds x_train, y_train, x_test, y_test (uint8). Every row is ``pipeline retrain`` of one untrained ONNX file,
once a seed; the file written is certified on the whole test set. The final epoch counts and nothing is selected; no part of the
training set is held out. A run that was cut short goes on from its checkpoint, one that has finished is not run again, and
``--show`` prints the table of what has finished.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {name: ("--recipe", name) for name in ("shi2021", "fast", "mtl-ibp", "vanilla-ibp", "crown-ibp", "pgd")}
IDEAS = {
    "shi2021": ("--recipe", "shi2021"),
    "minus initialisation": ("--recipe", "shi2021", "--no-ibp-init"),
    "minus full BatchNorm": ("--recipe", "shi2021", "--no-full-bn"),
    "minus regularisers": ("--recipe", "shi2021", "--no-tightness", "--no-balance"),
    "vanilla-ibp": ("--recipe", "vanilla-ibp"),
}
FAST = RECIPES["fast"]
BEST = {name: RECIPES[name] for name in ("shi2021", "fast")}
CIFAR = ("--mean", "0.4914,0.4822,0.4465", "--std", "0.2470,0.2435,0.2616")
TINY = ("--mean", "0.4802,0.4481,0.3975", "--std", "0.2302,0.2265,0.2262")


@dataclass(frozen=True)
class Setting:
    """What the rows of one block of a table share; ``options`` are those of ``retrain``."""

    title: str
    eps: str
    rows: dict[str, tuple[str, ...]]
    options: tuple[str, ...] = ()
    net: tuple[str, ...] = ("small_cnn", "--input", "1,28,28", "--no-bn")
    seeds: int = 3


def ramp(epochs: int, warmup: int) -> tuple[str, ...]:
    """One epoch at eps zero, then a ramp, then the full eps."""
    return ("--epochs", str(epochs), "--warmup-start", "2", "--warmup-length", str(warmup))


NARROW = ("cnn7", "--input", "1,28,28", "--width", "4", "--no-bn")
SMALL = ("small_cnn", "--input", "3,32,32", "--no-bn")
TABLES: dict[str, tuple[Setting, ...]] = {
    # On a CPU, minutes a run.
    "mnist": tuple(Setting("10 epochs, ramp 3", eps, RECIPES, ramp(10, 3)) for eps in ("0.3", "0.1")),
    "mnist-bf16": (
        Setting("10 epochs, ramp 3", "0.3", {"fast": FAST, "fast, bf16": (*FAST, "--precision", "bf16")}, ramp(10, 3)),
    ),
    "mnist-ideas": (
        Setting("10 epochs, ramp 3", "0.3", IDEAS, ramp(10, 3)),
        Setting("30 epochs, ramp 10", "0.3", IDEAS | BEST, ramp(30, 10)),
    ),
    "mnist-deeper": (Setting("CNN-7 of width 4, 10 epochs, ramp 3", "0.3", IDEAS | BEST, ramp(10, 3), NARROW),),
    "cifar10-small": tuple(
        Setting("small CNN, 20 epochs, ramp 10", eps, BEST, (*ramp(20, 10), *CIFAR), SMALL)
        for eps in ("8/255", "2/255")
    ),
    # For a GPU: the paper's networks and run lengths.
    "cifar10": (
        Setting("CNN-7", "8/255", BEST, CIFAR, ("cnn7", "--input", "3,32,32", "--no-bn")),
        Setting("Wide-ResNet-8", "8/255", BEST, CIFAR, ("wide_resnet8", "--input", "3,32,32", "--no-bn"), 1),
        Setting("ResNeXt", "8/255", BEST, CIFAR, ("resnext", "--input", "3,32,32", "--no-bn"), 1),
    ),
    "cifar10-2": tuple(
        Setting(name, "2/255", BEST, CIFAR, (net, "--input", "3,32,32", "--no-bn"))
        for name, net in (("CNN-5", "cnn5"), ("CNN-7", "cnn7"))
    ),
    "mnist-0.4": (Setting("CNN-7", "0.4", BEST, (), ("cnn7", "--input", "1,28,28", "--no-bn")),),
    "tinyimagenet": (
        Setting("CNN-7", "1/255", BEST, TINY, ("cnn7", "--input", "3,64,64", "--classes", "200", "--no-bn"), 1),
    ),
}

BEFORE = "1000"
"""Samples on which the untrained file is certified: nothing of it is provable."""
COLUMNS = ("natural", "attacked", "ibp", "crown-ibp", "all")


@dataclass(frozen=True)
class Run:
    """One training."""

    setting: Setting
    row: str
    seed: int

    @property
    def name(self) -> str:
        words = (self.setting.net[0], self.setting.title, f"eps {self.setting.eps}", self.row, str(self.seed))
        return ".".join(word.replace(" ", "-").replace("/", "over").replace(",", "") for word in words)


@click.command()
@click.argument("table", type=click.Choice(list(TABLES)))
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Runs side by side, each with its share of the cores.")
@click.option("--device", default=None, help="As retrain's.")
@click.option("--time-budget", default=None, help="As retrain's, for each run; the same command goes on from there.")
@click.option("--only", default="", help="Only runs whose name contains this.")
@click.option("--method", default="auto", show_default=True, help="As retrain's: how far the ladder is climbed.")
@click.option("--compile/--no-compile", "compiled", default=None, help="As retrain's.")
@click.option("--graph/--no-graph", default=None, help="As retrain's.")
@click.option("--precision", default=None, help="As retrain's.")
@click.option("--seeds", default=None, type=int, help="At most so many.")
@click.option("--show", is_flag=True, help="Print the table of what has finished, and run nothing.")
def main(
    table: str,
    data: Path,
    work: Path,
    jobs: int,
    device: str | None,
    time_budget: str | None,
    only: str,
    method: str,
    compiled: bool | None,
    graph: bool | None,
    precision: str | None,
    seeds: int | None,
    show: bool,
) -> None:
    """Train, certify and print one TABLE from the arrays in DATA."""
    work.mkdir(parents=True, exist_ok=True)
    runs = [run for run in planned(TABLES[table], seeds) if only in run.name]
    if not show:
        asked = {"--method": method, "--device": device, "--time-budget": time_budget, "--precision": precision}
        more = [word for flag, value in asked.items() if value for word in (flag, value)]
        more += [] if compiled is None else ["--compile" if compiled else "--no-compile"]
        more += [] if graph is None else ["--graph" if graph else "--no-graph"]
        for net in {run.setting.net for run in runs}:
            untrained(net, work)
        threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda run: execute(run, data.resolve(), work, threads, more), runs))
    click.echo("\n".join(lines(TABLES[table], runs, work)))


def planned(settings: tuple[Setting, ...], seeds: int | None) -> list[Run]:
    """The first seed of every row before the second of any."""
    most = max(s.seeds for s in settings) if seeds is None else seeds
    return [Run(s, row, seed) for seed in range(most) for s in settings if seed < s.seeds for row in s.rows]


def execute(run: Run, data: Path, work: Path, threads: str, more: list[str]) -> None:
    """One ``pipeline retrain``; its log and its report stay beside its file."""
    if report(run, work) is not None:
        return
    python, out = [sys.executable, "-m", "pipeline", "retrain"], work / f"{run.name}.onnx"
    given = ["--data", f"npz:{data}", "--eps", run.setting.eps, "--seed", str(run.seed), "--held-out", "0"]
    given += ["--before-samples", BEFORE]
    command = [*python, str(untrained(run.setting.net, work)), "--out", str(out), *given, *more]
    began = time.monotonic()
    with open(work / f"{run.name}.log", "w") as log:
        code = subprocess.run(
            [*command, *run.setting.options, *run.setting.rows[run.row]],
            stdout=log,
            stderr=log,
            cwd=work,
            env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
        ).returncode
    click.echo(f"{run.name}: exit {code} after {time.monotonic() - began:.0f} s")


def untrained(net: tuple[str, ...], work: Path) -> Path:
    """The file that training starts from, which is the same for all rows."""
    path = work.resolve() / f"{'-'.join(word.strip('-').replace(',', 'x') for word in net)}.onnx"
    if not path.exists():
        partial = path.with_suffix(".partial")
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "export_models.py"), *net, "--out", str(partial)], check=True
        )
        partial.replace(path)
    return path


def lines(settings: tuple[Setting, ...], runs: list[Run], work: Path) -> Iterator[str]:
    """Means, and ranges over seeds: natural and attacked accuracy; certified by IBP alone, by CROWN-IBP too, by all rungs."""
    yield "| | seeds | natural % | attacked % | certified % by IBP | and CROWN-IBP | and further rungs | s an epoch |"
    yield "|---|---|---|---|---|---|---|---|"
    for setting in settings:
        yield f"| **ε = {setting.eps}, {setting.title}** | | | | | | | |"
        for row in setting.rows:
            found = [f for f in (report(r, work) for r in runs if (r.setting, r.row) == (setting, row)) if f]
            if found:
                cells = [spread([f[name] for f in found if name in f]) for name in COLUMNS]
                seconds = [s for f in found for s in f["seconds"]]
                took = f"{statistics.median(seconds):.1f}" if seconds else "–"
                yield f"| {row} | {len(found)} | {' | '.join(cells)} | {took} |"


def report(run: Run, work: Path) -> dict | None:
    """What a run that has finished attained, in percent."""
    path = work / f"{run.name}.report" / "report.json"
    if not path.exists():
        return None
    told = json.loads(path.read_text())
    result, timings = told["result"], told["run"]["timings"]
    level, climbed = result["levels"][-1], result["method"]["bounds"]
    n = level["natural"]["n"]
    found = {name: 100 * level[name]["k"] / n for name in ("natural", "attacked")}
    found |= {rung["name"]: 100 * rung["certified"] / n for rung in level["rungs"] if rung["name"] in COLUMNS}
    if set(climbed) - {"ibp", "crown-ibp"}:
        found["all"] = 100 * level["certified"]["k"] / n
    found["chance"] = any(warning["code"] == "near-chance" for warning in result["warnings"])
    return found | {"seconds": [spent for name, spent in timings.items() if name.startswith("epoch ")]}


def spread(values: list[float]) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ({min(values):.2f} – {max(values):.2f})"


if __name__ == "__main__":
    main()
