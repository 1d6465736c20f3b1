"""``pipeline merge``: the reports of a run's shards made the report that one process would have written."""

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
from pipeline.commands.shards import Part, opened, require_one_run
from pipeline.errors import Contradiction, UsageError
from pipeline.gates import Demands
from pipeline.gates.demands import demands
from pipeline.methods import DECIDERS
from pipeline.render import render
from pipeline.results.samples import COLUMNS
from pipeline.settings import settled
from pipeline.system import run_folder


def merge(
    given: Sequence[Path], *, report: Path | None = None, baseline: Path | None = None, argv: Sequence[str] = ()
) -> Iterator[Event]:
    """Put the reports of all shards of one run together, and decide its gates; the last event is ``Done``.

    Bit for bit the report of one process: verdicts, counterexamples, counts and gates, but for what a time budget left out and
    what machines that compute otherwise find otherwise, which it says. ``baseline`` is the report that gates on regression
    compare with. Raises Incomplete (4) naming the shards that are missing, InputRejected (3) for one that is there twice or of
    another run, Contradiction (5) for one that was changed.
    """
    if not given:
        raise UsageError("merge takes the reports of shards; received none: `pipeline merge shards/*`.")
    started = datetime.now(UTC)
    parts = sorted((opened(path) for path in given), key=lambda part: part.shard.number)
    require_one_run(parts)
    folder = report or run_folder.certification_folder(Path(parts[0].result.model.file))
    run_folder.require_folder(folder)
    gates = _gates(parts[0], baseline, folder)
    samples = _joined(parts)
    for note in _uneven(parts):
        yield Note(note, warning=True)
    result = conclude(_fields(parts, samples), samples, gates)
    described = reports.Report.of("certification", result, _run(parts, started, argv))
    reports.write(described, samples, folder, page=render(described))
    yield Done(described, folder)


def _gates(first: Part, baseline: Path | None, folder: Path) -> Demands:
    """What the whole run was held to when its shards were started. Raises UsageError (2) for another baseline, or none."""
    asked, result = first.shard.asked, first.result
    said: dict[str, Any] = asked.model_dump(exclude={"baseline_sha256"})
    if (asked.baseline_sha256 is None) != (baseline is None):
        raise UsageError(
            "--baseline names the report that --max-regression of the shards compares with; "
            + ("it is missing." if baseline is None else "they were asked for none.")
        )
    said |= {
        "norm": result.threat.norm,
        "eps": tuple(level.exact for level in result.levels),
        "attack": result.method.attack is not None,
        "arithmetic": result.method.arithmetic,
        "baseline": None if baseline is None else str(baseline),
    }
    gates = demands(settled(said, dict.fromkeys(said, "the reports")), folder)
    found = gates.reference
    if found is not None and found.report.result_sha256 != asked.baseline_sha256:
        raise UsageError(f"{baseline} is not the baseline of the shards: its result is another. Name that one.")
    return gates


def _joined(parts: Sequence[Part]) -> reports.Samples:
    """The samples of all, in the order of their indices, each of which is there once.

    Raises Contradiction (5) where some have a column that others lack: all come of one command.
    """
    order = np.argsort(np.concatenate([part.samples.index for part in parts]), kind="stable")

    def column(name: str) -> Any:
        found = [getattr(part.samples, name) for part in parts]
        if name == "undecided" and any(one is not None for one in found):  # there where a budget was spent alone
            found = [
                np.zeros(p.samples.verdict.shape, bool) if c is None else c for p, c in zip(parts, found, strict=True)
            ]
        if all(one is None for one in found):
            return None
        if lacking := [part for part, one in zip(parts, found, strict=True) if one is None]:
            raise Contradiction(f"{lacking[0].path}: samples.npz lacks {name}, which other shards of its run have.")
        return np.take(np.concatenate(found, axis=-1), order, axis=-1)

    points = [part.samples.counterexamples for part in parts if part.samples.counterexamples is not None]
    columns = {name: column(name) for name in COLUMNS if name != "eps"}
    return reports.Samples(
        parts[0].samples.eps, **columns, counterexamples=reports.Counterexamples.joined(points) if points else None
    )


def _fields(parts: Sequence[Part], samples: reports.Samples) -> dict[str, Any]:
    """All of a result but gates and verdict."""
    first, details = (
        parts[0].result,
        [_looked([part.result.levels[i] for part in parts]) for i in range(len(samples.eps))],
    )
    about = {name: getattr(first, name) for name in ("tool", "model", "preprocessing", "threat", "method")}
    return about | {
        "data": first.data.model_copy(update={"n_evaluated": len(samples)}),
        "parity": _parity([part.result.parity for part in parts]),
        "levels": reports.levels(samples, details=details),
        "per_class": reports.per_class(samples),
        "samples": samples.described,
        "counterexamples": samples.counterexamples.described if samples.counterexamples else None,
        "largest_eps": reports.largest_eps(samples, tolerance=str(verdicts.TOLERANCE)),
        "warnings": _warnings(parts),
    }


def _looked(levels: Sequence[reports.Level]) -> reports.LevelDetails:
    """What verdicts do not say of one eps: examined samples add up, layers are those of the run's first samples everywhere."""
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


def _parity(found: Sequence[reports.Parity | None]) -> reports.Parity | None:
    """The same in all, but for the boxes that were sampled; the worst, where machines differ in their last bits."""
    known = [parity for parity in found if parity is not None]
    if len(known) < len(found):
        return None
    worst = max(known, key=lambda parity: (parity.argmax_disagreements, parity.max_abs_difference, -parity.n))
    return worst.model_copy(
        update={"boxes": sum(p.boxes for p in known), "box_points": sum(p.box_points for p in known)}
    )


def _warnings(parts: Sequence[Part]) -> tuple[reports.Caution, ...]:
    """Those of the run, and on how many samples the attack was blind in all."""
    own = [set() if not p.shard.blind else {BLIND.format(p.shard.blind)} for p in parts]
    said = [c for p, blind in zip(parts, own, strict=True) for c in p.result.warnings if c.message not in blind]
    blind = sum(part.shard.blind for part in parts)
    more = [reports.Caution(message=BLIND.format(blind))] if blind else []
    return (*dict.fromkeys(said), *more)


def _uneven(parts: Sequence[Part]) -> Iterator[str]:
    """Why the result may not be to the bit what one process would have found."""
    if any(part.result.partial for part in parts):
        yield "a budget left samples of some shards undecided: one process would have left others"
    alike = [
        (part.result.parity and part.result.parity.model_dump(exclude={"boxes", "box_points"}), part.report.run.host)
        for part in parts
    ]
    if any(one != alike[0] for one in alike):
        yield (
            "shards ran on machines that are not alike, or with other numbers of threads: last bits may differ from those of one "
            "process, and what is certified holds all the same"
        )


def _run(parts: Sequence[Part], started: datetime, argv: Sequence[str]) -> reports.Run:
    """When and where the shards ran; seconds are those of all together, and of merging."""
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
