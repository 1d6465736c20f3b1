"""Why samples are left unknown, in sentences that say what may decide them: for terminal, page, Markdown and properties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.methods import COMPLETE, METHODS
from pipeline.results.facts import Unfinished
from pipeline.results.per_radius import Level
from pipeline.results.result import Report
from pipeline.results.text import clean, count

MOST_ROWS = 20
ENDS = {
    "domains": "{parts} parts of branch and bound are not enough",
    "charge": "real arithmetic alone proves {them}, since float32 may lose {charge}",
    "split": "every sign of a ReLU is assumed in some part, so that bounds lose elsewhere",
    "memory": "the open parts take all memory that is left to them after {parts}",
    "time": "the time is over after {parts} parts",
}
REMEDIES = {
    "domains": "a larger --max-domains may",
    "charge": "--arithmetic real says so",
    "split": "a stronger attack may find a counterexample (--restarts, --attack-steps)",
    "memory": "a larger --memory-budget may",
    "time": "more of --time-budget may",
}


def reasons(report: Report, level: Level) -> list[str]:
    """A sentence for each reason, with the number of samples; none where nothing is unknown."""
    unfinished, bounds = level.unfinished, report.result.method.bounds
    by = {why: [one for one in unfinished if one.why == why] for why in ENDS}
    lines = [f"{_samples(len(some))}: {ended(some)}" for some in by.values() if some]
    if where := _where(unfinished):
        lines.append(where)
    others = max(0, level.verdicts.unknown - level.undecided - len(unfinished))
    if others and COMPLETE in bounds:
        lines.append(
            f"{_samples(others)}: not divided, as nearer ones of their block could not be decided; --method complete tries all."
        )
    elif others and bounds:
        lines.append(f"{_samples(others)}: no bound up to {bounds[-1]} proves them{_further(bounds)}.")
    if level.undecided:
        lines.append(f"{_samples(level.undecided)}: not reached in the time allowed; --time-budget gives more.")
    return lines


def ended(some: Sequence[Unfinished]) -> str:
    """How branch and bound ended for samples, or a box, that one thing stopped."""
    why, several = some[0].why, len(some) > 1
    charges = [one.charge for one in some if one.charge is not None]
    sentence = ENDS[why].format(
        parts=count(max(one.domains for one in some)),
        them="them" if several else "it",
        charge=f"up to {max(charges):.2g}, more than is left" if charges else "more than is left",
    )
    bounds = [one.bound for one in some if one.bound is not None]
    near = f" ({'the nearest ' if several else ''}bound is {max(bounds):.2g})" if bounds and why != "charge" else ""
    return f"{sentence}{near}; {REMEDIES[why]}."


def nearest(level: Level) -> list[Unfinished]:
    """Those to list, the nearest to a proof first."""
    by_bound = sorted(level.unfinished, key=lambda one: (one.bound is None, -(one.bound or 0.0), one.index))
    return by_bound[:MOST_ROWS]


def of_box(one: Unfinished) -> str:
    """The same of a box of a property."""
    where = _where([one])
    return f"{ended([one])}{f' {where}' if where else ''}"


def _where(unfinished: Sequence[Unfinished]) -> str:
    """The layer in whose lines most of the bounds lose most, and about how much of what they lose."""
    layers = Counter(one.layer for one in unfinished if one.layer is not None)
    if not layers:
        return ""
    ((layer, times),) = layers.most_common(1)
    shares = sorted(one.share for one in unfinished if one.layer == layer and one.share is not None)
    share = f", {100 * shares[len(shares) // 2]:.0f} % of what they lose" if shares else ""
    among = f" for {times} of {len(unfinished)}" if len(unfinished) > 1 else ""
    return f"Bounds lose most at {clean(layer, 80)}{among}{share}."


def _further(bounds: Sequence[str]) -> str:
    """What a run that stopped before the last rung may be asked to add."""
    last = list(METHODS)[-1]
    return "" if bounds[-1] == last else f"; --method {last} goes on by branch and bound"


def _samples(n: int) -> str:
    return f"{count(n)} sample" if n == 1 else f"{count(n)} samples"
