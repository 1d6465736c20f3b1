"""Recipes on equal terms: the same network, data, batch and epochs, each at the best of several learning rates, seed by seed.

    python scripts/tournament.py mnist mnist.npz --eps 0.1 --recipes shi2021,fast,distil --rates 5e-4,1e-3,2e-3 --work runs

The data file holds x_train, y_train, x_test, y_test (uint8); the test part is not read. A share of the training part is set
aside, by the same seed for all, and decides: every recipe is trained at every rate with the first seed, and at the best of them
with the others. A recipe is said to lead where it is ahead with every seed. A network that classifies no better than guessing may
be constant, and certified for that alone: its rate is passed over, and a recipe with such a network is out of the comparison.
What has finished is not run again.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import click
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from reproduce import CIFAR, COLUMNS, Run, Setting, execute, report, untrained  # noqa: E402

from pipeline.train.tournament import Entry, spread, verdict  # noqa: E402

NETS = {
    "mnist": (("small_cnn", "--input", "1,28,28", "--no-bn"), ()),
    "mnist-cnn7": (("cnn7", "--input", "1,28,28", "--width", "8", "--no-bn"), ()),
    "cifar10": (("small_cnn", "--input", "3,32,32", "--no-bn"), CIFAR),
    "cifar10-cnn5": (("cnn5", "--input", "3,32,32", "--width", "8", "--no-bn"), CIFAR),
}
"""Networks, and what else ``retrain`` needs to know of their data."""
SPLIT = 20_261_127
"""The seed of the samples that are set aside."""


def run_of(entry: Entry, setting: Setting, seed: int) -> Run:
    """The run of an entry with a seed."""
    row = f"{entry.recipe} rate {entry.rate}".replace(":", " ")
    changed = [word for name, value in entry.changes.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    setting.rows.setdefault(row, ("--recipe", entry.name, "--learning-rate", entry.rate, *changed))
    return Run(setting, row, seed)


@dataclass(frozen=True)
class Tournament:
    """What all entries share: the setting, the folder, and the column of the report that decides."""

    setting: Setting
    work: Path
    judge: str

    def score(self, entry: Entry, seed: int) -> float | None:
        """Per cent of the held-out samples, None where the run has not finished."""
        found = report(run_of(entry, self.setting, seed), self.work)
        return None if found is None else found.get(self.judge)

    def guesses(self, entry: Entry, seed: int) -> bool:
        """Whether the network of a run that has finished classifies no better than guessing."""
        found = report(run_of(entry, self.setting, seed), self.work)
        return found is not None and found["chance"]

    def best(self, recipe: str, rates: Sequence[str]) -> Entry:
        """The rate that did best with the first seed, of those whose network does not guess."""
        entries = [Entry(recipe, rate) for rate in rates]
        return max(entries, key=lambda entry: (not self.guesses(entry, 0), self.score(entry, 0) or -1.0))

    def lines(self, entries: Sequence[Entry], seeds: int) -> Iterator[str]:
        """Means and ranges over the seeds, what is out of the comparison, and then each pair, seed by seed."""
        yield f"| ε = {self.setting.eps}, {self.setting.title} | rate | natural % | attacked % | {self.judge} % | seeds |"
        yield "|---|---|---|---|---|---|"
        for entry in entries:
            found = [r for s in range(seeds) if (r := report(run_of(entry, self.setting, s), self.work)) is not None]
            cells = [spread([r[name] for r in found if name in r]) for name in ("natural", "attacked", self.judge)]
            yield f"| {entry.recipe} | {entry.rate} | {' | '.join(cells)} | {len(found)} |"
        taught = []
        for entry in entries:
            if guessed := [str(s) for s in range(seeds) if self.guesses(entry, s)]:
                yield f"{entry.recipe}: no better than guessing with seed {', '.join(guessed)}, and out of the comparison."
            else:
                taught.append(entry)
        for one, two in combinations(taught, 2):
            yield self.paired(one, two, seeds)

    def paired(self, one: Entry, two: Entry, seeds: int) -> str:
        pairs = [(self.score(one, s), self.score(two, s)) for s in range(seeds)]
        gaps = [a - b for a, b in pairs if a is not None and b is not None]
        return verdict(one.recipe, two.recipe, gaps)


def set_aside(data: Path, work: Path, train: int, held: int) -> Path:
    """A file whose test part is ``held`` samples of the training part, and whose training part is ``train`` others."""
    path = work.resolve() / f"{data.stem}-{train}-{held}.npz"
    if not path.exists():
        with np.load(data) as arrays:
            x, y = arrays["x_train"], arrays["y_train"]
        order = np.random.default_rng(SPLIT).permutation(len(y))
        if train + held > len(y):
            raise click.UsageError(f"--train and --held take {train + held} samples, and there are {len(y)}.")
        kept, aside = order[held : held + train], order[:held]
        np.savez(path, x_train=x[kept], y_train=y[kept], x_test=x[aside], y_test=y[aside])
    return path


@click.command()
@click.argument("net", type=click.Choice(list(NETS)))
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--eps", required=True, help="As retrain's.")
@click.option("--recipes", default="shi2021,fast", show_default=True, help="Options behind colons: distil:alpha=0.5.")
@click.option("--rates", default="5e-4,1e-3,2e-3", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--train", "train_samples", default=45_000, show_default=True, help="Samples to train on.")
@click.option("--held", default=5_000, show_default=True, help="Samples that decide.")
@click.option("--judge", type=click.Choice([c for c in COLUMNS if c != "natural"]), default="ibp", show_default=True)
@click.option(
    "--method", default="crown-ibp", show_default=True, help="As certify's; `all` is judged by its last rung."
)
@click.option(
    "--given", type=click.Path(exists=True, path_type=Path), help="A trained file to start from, and to teach."
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Runs side by side, each with its share of the cores.")
def main(
    net: str,
    data: Path,
    eps: str,
    recipes: str,
    rates: str,
    seeds: int,
    epochs: int,
    batch: int,
    train_samples: int,
    held: int,
    judge: str,
    method: str,
    given: Path | None,
    work: Path,
    jobs: int,
) -> None:
    """Train and compare recipes on a NET and the arrays in DATA."""
    work.mkdir(parents=True, exist_ok=True)
    file = set_aside(data, work, train_samples, held)
    network, options = NETS[net]
    if given is not None:
        content = given.read_bytes()
        network = (f"given-{hashlib.sha256(content).hexdigest()[:8]}",)
        (work / f"{network[0]}.onnx").write_bytes(content)
    same = ("--epochs", str(epochs), "--batch-size", str(batch), "--method", method, *options)
    tournament = Tournament(Setting(f"{net} {epochs} epochs of {train_samples}", eps, {}, same, network), work, judge)
    untrained(network, work)
    threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))

    def all_of(runs: Sequence[Run]) -> None:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda run: execute(run, file, work, threads, []), runs))

    names, every_rate = recipes.split(","), rates.split(",")
    all_of([run_of(Entry(name, rate), tournament.setting, 0) for rate in every_rate for name in names])
    best = [tournament.best(name, every_rate) for name in names]
    taught = [entry for entry in best if not tournament.guesses(entry, 0)]
    all_of([run_of(entry, tournament.setting, seed) for seed in range(1, seeds) for entry in taught])
    click.echo("\n".join(tournament.lines(best, seeds)))
    for entry in taught:
        if len(every_rate) > 1 and entry.rate in (min(every_rate, key=float), max(every_rate, key=float)):
            click.echo(
                f"{entry.recipe}: its best rate, {entry.rate}, is at the end of those tried; one beyond may be better."
            )


if __name__ == "__main__":
    main()
