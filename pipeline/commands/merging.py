"""``pipeline merge``: merges the reports of a run's shards into the report that one process would have written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import certify as verdicts
from pipeline import results as reports
from pipeline.commands.conclusion import conclude
from pipeline.commands.events import Done, Event, Note
from pipeline.commands.examination import BLIND
from pipeline.commands.shards import ShardReport, open_shard, require_one_run
from pipeline.errors import Contradiction, UsageError
from pipeline.gates import Demands
from pipeline.gates.demands import demands
from pipeline.methods import DECIDERS
from pipeline.render import render
from pipeline.results.samples import COLUMNS
from pipeline.settings import settled
from pipeline.system import run_folder


def merge(
    paths: Sequence[Path], *, report: Path | None = None, baseline: Path | None = None, argv: Sequence[str] = ()
) -> Iterator[Event]:
    """Merge the reports of all shards of one run, and decide its gates; the last event is ``Done``.

    Verdicts, counterexamples, counts and gates are bit for bit those of one process, except where a time budget left samples out
    or machines compute differently, which notes say. ``baseline`` is the report that gates on regression compare with. Raises
    Incomplete (4) naming missing shards, InputRejected (3) for a shard that is given twice or of another run, Contradiction (5)
    for one that was changed.
    """
    if not paths:
        raise UsageError("merge takes the reports of shards; received none: `pipeline merge shards/*`.")
    started = datetime.now(UTC)
    parts = sorted((open_shard(path) for path in paths), key=lambda part: part.shard.number)
    require_one_run(parts)
    folder = report or run_folder.certification_folder(Path(parts[0].result.model.file))
    run_folder.require_folder(folder)
    gates = _gates(parts[0], baseline, folder)
    samples = _merge_samples(parts)
    for note in _differences(parts):
        yield Note(note, warning=True)
    result = conclude(_fields(parts, samples), samples, gates)
    described = reports.Report.of("certification", result, _run(parts, started, argv))
    reports.write(described, samples, folder, page=render(described))
    yield Done(described, folder)


def _gates(first: ShardReport, baseline: Path | None, folder: Path) -> Demands:
    """The gates of the whole run, as its shards state them. Raises UsageError (2) unless ``baseline`` is theirs."""
    stated, result = first.shard.asked, first.result
    settings: dict[str, Any] = stated.model_dump(exclude={"baseline_sha256"})
    if (stated.baseline_sha256 is None) != (baseline is None):
        raise UsageError(
            "--baseline names the report that --max-regression of the shards compares with; "
            + ("it is missing. Name it." if baseline is None else "the shards have no such gate. Leave it out.")
        )
    settings |= {
        "norm": result.threat.norm,
        "eps": tuple(level.exact for level in result.levels),
        "attack": result.method.attack is not None,
        "arithmetic": result.method.arithmetic,
        "baseline": None if baseline is None else str(baseline),
    }
    gates = demands(settled(settings, dict.fromkeys(settings, "the reports")), folder)
    reference = gates.reference
    if reference is not None and reference.report.result_sha256 != stated.baseline_sha256:
        raise UsageError(
            f"--baseline must be the report that the shards were started with; {baseline} has another result. Name that report."
        )
    return gates


def _merge_samples(parts: Sequence[ShardReport]) -> reports.Samples:
    """The samples of all shards, in the order of their indices.

    Raises Contradiction (5) where only some shards have a column, since all were made by one command.
    """
    order = np.argsort(np.concatenate([part.samples.index for part in parts]), kind="stable")

    def column(name: str) -> Any:
        columns = [getattr(part.samples, name) for part in parts]
        if name == "undecided" and any(one is not None for one in columns):  # only shards whose budget ran out have it
            columns = [
                np.zeros(p.samples.verdict.shape, bool) if c is None else c for p, c in zip(parts, columns, strict=True)
            ]
        if all(one is None for one in columns):
            return None
        if without := [part for part, one in zip(parts, columns, strict=True) if one is None]:
            raise Contradiction(f"{without[0].path}: samples.npz lacks {name}, which other shards of its run have.")
        return np.take(np.concatenate(columns, axis=-1), order, axis=-1)

    points = [part.samples.counterexamples for part in parts if part.samples.counterexamples is not None]
    columns = {name: column(name) for name in COLUMNS if name != "eps"}
    return reports.Samples(
        parts[0].samples.eps, **columns, counterexamples=reports.Counterexamples.joined(points) if points else None
    )


def _fields(parts: Sequence[ShardReport], samples: reports.Samples) -> dict[str, Any]:
    """The fields of the result, except gates and verdict."""
    first = parts[0].result
    details = [_merge_details([part.result.levels[i] for part in parts]) for i in range(len(samples.eps))]
    of_run = {name: getattr(first, name) for name in ("tool", "model", "preprocessing", "threat", "method")}
    return of_run | {
        "data": first.data.model_copy(update={"n_evaluated": len(samples)}),
        "parity": _parity([part.result.parity for part in parts]),
        "levels": reports.levels(samples, details=details),
        "per_class": reports.per_class(samples),
        "samples": samples.described,
        "counterexamples": samples.counterexamples.described if samples.counterexamples else None,
        "largest_eps": reports.largest_eps(samples, tolerance=str(verdicts.TOLERANCE)),
        "warnings": _warnings(parts),
    }


def _merge_details(levels: Sequence[reports.Level]) -> reports.LevelDetails:
    """The details of one eps: counts are summed, and layers, which are those of the run's first samples, are the same in all."""
    examined = [{rung.name: rung.examined for rung in level.rungs} for level in levels]
    names = [name for name in DECIDERS if any(name in one for one in examined)]
    costs = [level.rounding for level in levels if level.rounding is not None]
    rounding = None
    if len(costs) == len(levels):
        rounding = reports.RoundingCost(
            largest=max(cost.largest for cost in costs),
            certified=sum(cost.certified for cost in costs),
            certified_in_real=sum(cost.certified_in_real for cost in costs),
        )
    layers = next((level.layers for level in levels if level.layers), ())
    unfinished = sorted((one for level in levels for one in level.unfinished), key=lambda one: one.index)
    counts = tuple((n, sum(one.get(n, 0) for one in examined)) for n in names)
    return reports.LevelDetails(layers, rounding, counts, tuple(unfinished))


def _parity(by_shard: Sequence[reports.Parity | None]) -> reports.Parity | None:
    """The worst of all, since machines may differ in their last bits, with sampled boxes summed; None if a shard has none."""
    each = [parity for parity in by_shard if parity is not None]
    if len(each) < len(by_shard):
        return None
    worst = max(each, key=lambda parity: (parity.argmax_disagreements, parity.max_abs_difference, -parity.n))
    return worst.model_copy(update={"boxes": sum(p.boxes for p in each), "box_points": sum(p.box_points for p in each)})


def _warnings(parts: Sequence[ShardReport]) -> tuple[reports.Caution, ...]:
    """The warnings of all shards without duplicates; the numbers of samples without gradients are summed."""
    own = [set() if not p.shard.blind else {BLIND.format(p.shard.blind)} for p in parts]
    others = [c for p, blind in zip(parts, own, strict=True) for c in p.result.warnings if c.message not in blind]
    blind = sum(part.shard.blind for part in parts)
    summed = [reports.Caution(message=BLIND.format(blind))] if blind else []
    return (*dict.fromkeys(others), *summed)


def _differences(parts: Sequence[ShardReport]) -> Iterator[str]:
    """Notes on why the result may differ from that of one process."""
    if any(part.result.partial for part in parts):
        yield "a budget left samples of some shards undecided: one process would have left others"
    setups = [
        (part.result.parity and part.result.parity.model_dump(exclude={"boxes", "box_points"}), part.report.run.host)
        for part in parts
    ]
    if any(one != setups[0] for one in setups):
        yield (
            "shards ran on different machines, or with different numbers of threads: last bits may differ from those of one "
            "process; certificates hold all the same"
        )


def _run(parts: Sequence[ShardReport], started: datetime, argv: Sequence[str]) -> reports.Run:
    """The volatile part of the report; seconds are summed over all shards and the merging."""
    runs = [part.report.run for part in parts]
    timings: dict[str, float] = {}
    for run in runs:
        for name, seconds in run.timings.items():
            timings[name] = timings.get(name, 0.0) + seconds
    seeds = {run.parity_seed for run in runs}
    return reports.Run(
        started=min(run.started for run in runs),
        seconds=sum(run.seconds for run in runs) + (datetime.now(UTC) - started).total_seconds(),
        argv=tuple(argv),
        host=runs[0].host | {"shards": len(parts)},
        timings=timings,
        stopped_by=next((run.stopped_by for run in runs if run.stopped_by), None),
        parity_seed=seeds.pop() if len(seeds) == 1 else None,
    )
