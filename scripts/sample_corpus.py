"""Points of every box of a corpus, run by ONNX Runtime on the file itself, against the bounds that are claimed over the box.

    python scripts/sample_corpus.py CORPUS [--points 10000] [--seconds 60] [--only acasxu]

The folder holds ``index.json`` with models and properties (VNN-COMP). In the first box of each property, half of the points
are drawn evenly and half are corners. Every output of every point must lie within the bounds of that output by IBP, CROWN-IBP
and CROWN, and within those of alpha-CROWN (3 steps), and so must every row of its constraints. With
``--arithmetic real`` points are run in float64: float32 does leave bounds that hold in real arithmetic alone. Prints a
Markdown table, and exits 1 if any point lies outside.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from check_corpus import properties  # noqa: E402

from pipeline.bounds.alpha import Search  # noqa: E402
from pipeline.bounds.rows import RowBounds  # noqa: E402
from pipeline.bounds.specification import Specification  # noqa: E402
from pipeline.certify.subdomain import (  # noqa: E402
    Constraints,
    inputs_of,
    outputs_of,
    whole,
)
from pipeline.choices import Mode  # noqa: E402
from pipeline.commands.open_property import open_for, require_rules  # noqa: E402
from pipeline.commands.subject import Subject, opened  # noqa: E402
from pipeline.core.rounding import rounding_of  # noqa: E402
from pipeline.core.threat import Box  # noqa: E402
from pipeline.errors import PipelineError  # noqa: E402
from pipeline.methods import METHODS, bounding  # noqa: E402
from pipeline.settings import Settings  # noqa: E402
from pipeline.system.clock import Clock, OutOfTime  # noqa: E402
from pipeline.vnnlib import Case, Property, parse, read  # noqa: E402

MOST_OUTPUTS = 64
"""Of so many outputs each is bounded from both sides; of more, a sample."""
ULP = 2.0**-52
"""What one product or sum may err by: forms of a point are evaluated in float64 from float32 outputs."""


def points(case: Case, count: int, seed: int = 0) -> np.ndarray:
    """Points of the box, float32, in the box: evenly drawn, then corners."""
    random = np.random.default_rng(seed)
    patch = whole(0, case)
    lower, upper = patch.lower.astype(np.float32), patch.upper.astype(np.float32)
    lower = np.where(lower < patch.lower, np.nextafter(lower, np.float32(np.inf)), lower)
    upper = np.where(upper > patch.upper, np.nextafter(upper, np.float32(-np.inf)), upper)
    inside = lower + random.random((count // 2, len(lower)), dtype=np.float32) * (upper - lower)
    corners = np.where(random.random((count - count // 2, len(lower))) < 0.5, lower, upper)
    return np.clip(np.concatenate([inside, corners]), lower, upper).astype(np.float32)


def asked(question: Property, some: np.ndarray) -> Specification:
    """``y_j`` and ``-y_j`` for some outputs, and the rows that the first case of the property constrains."""
    own = Constraints(question)([whole(0, question.cases[0])])
    index, weight = (t.new_zeros(2 * len(some), *t.shape[1:]) for t in (own.index, own.weight))
    index[:, 0, 0] = torch.from_numpy(some).repeat(2)
    weight[:, 0, 0] = torch.tensor([1.0, -1.0]).double().repeat_interleave(len(some))
    const = own.const.new_zeros(len(index), 1)
    return Specification(*map(torch.cat, ((index, own.index), (weight, own.weight), (const, own.const))))


def claims(subject: Subject, question: Property, rows: Specification, mode: Mode, clock: Clock) -> dict[str, Tensor]:
    """The lower bound of every row by each method that ends in time."""
    network, rounding = subject.network.in_float64(), rounding_of(mode)
    patch, shapes = whole(0, question.cases[0]), [tuple(d or 1 for d in p.shape[1:]) for p in network.inputs]
    ends = [inputs_of(torch.from_numpy(end)[None], shapes) for end in (patch.lower, patch.upper)]
    regions = [Box(rounding.enclose(a, b)) for a, b in zip(*ends, strict=True)]
    found: dict[str, Tensor] = {}
    search = Search(steps=3, until_proved=False)
    with suppress(OutOfTime):
        for method in bounding(METHODS):
            bounds = RowBounds(network, rounding, method=method, search=search, fixed=True, check=clock.check)
            found[method] = bounds.lower(regions, rows)
    return found


def outputs(subject: Subject, xs: np.ndarray, seconds: float, *, real: bool) -> np.ndarray:
    """The outputs of as many of the points as the time allows, in turn from both kinds."""
    xs = xs[np.arange(len(xs)).reshape(2, -1).T.reshape(-1)]
    network, names = subject.network.in_float64(), [p.name for p in subject.network.outputs]
    shapes = [tuple(d or 1 for d in p.shape[1:]) for p in network.inputs]
    fixed, began, rows = subject.session.fixed_batch, time.monotonic(), []
    for start in range(0, len(xs) - (fixed or 1) + 1, fixed or 256):
        parts = inputs_of(torch.from_numpy(xs[start : start + (fixed or 256)]), shapes)
        if real:
            ys = [y.numpy() for y in outputs_of(network, [part.double() for part in parts])]
        else:
            ys = subject.session(*(part.numpy() for part in parts), outputs=names)
        rows.append(np.concatenate([y.reshape(len(parts[0]), -1) for y in ys], axis=1))
        if time.monotonic() - began > seconds:
            break
    return np.concatenate(rows)


def outside(rows: Specification, least: Tensor, ys: np.ndarray) -> int:
    """How many points have a row below its bound; a bound that is not finite claims nothing."""
    form, y = rows.form(ys.shape[1]), ys.astype(np.float64)
    coeff, const = form.coeff[:, 0].numpy(), form.const[:, 0].numpy()
    terms = np.abs(y) @ np.abs(coeff).T + np.abs(const)
    claimed = np.nan_to_num(least[:, 0].detach().numpy(), nan=-np.inf)
    return int((y @ coeff.T + const < claimed - len(y.T) * ULP * terms).any(axis=1).sum())


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path, exists=True))
@click.option("--points", "count", default=10_000)
@click.option("--seconds", default=60.0, help="For the points of one box, and again for its bounds.")
@click.option("--only", default="", help="Part of the name of a property's file.")
@click.option("--arithmetic", default="float32-any-order")
def main(corpus: Path, count: int, seconds: float, only: str, arithmetic: str) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    click.echo(
        "| property | points | " + " | ".join(bounding(METHODS)) + " |\n|---|---|" + "---|" * len(bounding(METHODS))
    )
    faults = tried = 0
    for model, entry in properties(corpus, only):
        name = Path(entry["vnnlib"]).name.partition(".vnnlib")[0]
        try:
            question = parse(read(corpus / entry["vnnlib"]))
            subject = open_for(opened(model), Settings(arithmetic=arithmetic), question)
            require_rules(subject.network)
            some = np.linspace(0, question.outputs - 1, min(question.outputs, MOST_OUTPUTS)).astype(int)
            rows = asked(question, some)
            found = claims(subject, question, rows, arithmetic, Clock.of(seconds))  # type: ignore[arg-type]
        except PipelineError as error:
            click.echo(f"| {name} | | refused: {' '.join(str(error).split())[:90]} |")
            continue
        ys = outputs(subject, points(question.cases[0], count), seconds, real=arithmetic == "real")
        beyond = {method: outside(rows, least, ys) for method, least in found.items()}
        faults, tried = faults + sum(beyond.values()), tried + len(ys) * len(beyond)
        cells = [str(beyond.get(m, "")) for m in bounding(METHODS)]
        click.echo(f"| {name} | {len(ys)} | " + " | ".join(cells) + " |")
    click.echo(f"\n{tried} points against bounds, {faults} outside.")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
