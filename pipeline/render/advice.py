"""One sentence on what a result says, and one on what to do next; shared by terminal and page."""

from __future__ import annotations

import shlex
from fractions import Fraction
from itertools import pairwise
from pathlib import PurePath

from pipeline.render.layers import lost
from pipeline.render.published import quoted
from pipeline.results.chance import is_near_chance, share_of_guessing
from pipeline.results.per_radius import Level
from pipeline.results.result import Report
from pipeline.results.text import clean, percent

RARE = 20
HARDLY = Fraction(1, 20)
"""By how much certified accuracy must rise to be worth a loss of natural or attacked accuracy."""


def strongest(report: Report) -> Level:
    """The level a headline speaks of: the largest eps that leaves half of the correct certified, else the smallest."""
    half = [level for level in report.result.levels if 2 * level.certified.k >= max(level.natural.k, 1)]
    return half[-1] if half else report.result.levels[0]


def headline(report: Report) -> str:
    """What was found, in one sentence."""
    level, shard = strongest(report), report.result.shard
    if shard is not None:
        count = f"{level.certified.k} of its {level.certified.n} samples are provably robust"
        return f"Shard {shard}: {count} at ε = {level.eps}{in_norm(report)}."
    if (worse := made_worse(report)) is not None:
        return worse
    if is_near_chance(report.result):
        return (
            f"The file is no better than guessing: {percent(level.natural.value)} natural accuracy, before any change."
        )
    if report.result.method.arithmetic == "none":
        return f"Measured for comparison only; arithmetic `none` certifies nothing at ε = {level.eps}."
    if level.certified.k == 0:
        outcome = (
            "No sample was proved robust before the budget ran out"
            if level.undecided
            else "No sample is provably robust"
        )
        return f"{outcome} at ε = {level.eps}{in_norm(report)}."
    least = "At least " if level.undecided else ""
    return f"{least}{percent(level.certified.value)} of the samples are provably robust at ε = {level.eps}{in_norm(report)}."


def made_worse(report: Report) -> str | None:
    """Where retraining took from natural or attacked accuracy and certifies hardly more: what it took and what it gave."""
    training = report.result.training
    if training is None or training.before is None or training.after is None:
        return None
    changes = {}
    for name in ("natural", "attacked", "certified"):
        before, after = (getattr(side, name) for side in (training.before, training.after))
        if before is not None and after is not None:
            changes[name] = after.exact - before.exact
    gain = changes.pop("certified")
    losses = {name: change for name, change in changes.items() if change < 0}
    if not losses or gain >= HARDLY:
        return None
    points = ", ".join(f"{name} {100 * float(change):+.1f}" for name, change in [*losses.items(), ("certified", gain)])
    return f"The new file is worse than the given one: {points} points at ε = {training.after.eps}."


BY_FEATURE = ("--scale", "--scale-data", "--radius", "--fixed", "--movable")


def in_norm(report: Report) -> str:
    """A word on the norm, where it is not the usual one."""
    return " in L2" if report.result.threat.norm == "l2" else ""


def nothing_checked(report: Report) -> bool:
    """Whether a run is incomplete although no gate is open: nothing was proved or attacked."""
    result = report.result
    return result.verdict == "incomplete" and result.shard is None and all(gate.passed for gate in result.gates)


def next_step(report: Report, *, here: bool = False) -> tuple[str, str | None]:
    """(sentence, command or None): the one thing to do next; `here` with the paths of this run's own command line."""
    result, level = report.result, strongest(report)
    model, data = _as_given(report) if here else (result.model.file, result.data.uri)
    model, data, pixels = shlex.quote(clean(model)), shlex.quote(clean(data)), _preprocessing(report)
    # Without a part for training, the data are those that a model is tested on.
    training = f"--data {data}" if result.data.part != "all" else f"--data TRAINING_DATA --test-data {data}"
    command = f"{model} --data {data}{pixels}{_threat(report)} --eps {level.eps}"
    # Training knows one radius for all entries.
    retrain = None if result.threat.features else f"pipeline retrain {model} {training}{pixels} --eps"
    failed = next((gate for gate in result.gates if gate.passed is False), None)
    if result.shard is not None:
        return f"Merge the reports of all {result.shard.of} shards: that decides the gates.", "pipeline merge REPORT..."
    if nothing_checked(report):
        return (
            "Nothing was proved or attacked, so that nothing was checked: run again with more time, or an attack.",
            None,
        )
    if result.verdict == "incomplete":
        return "The budget ran out before every gate was decided: run again with more time or fewer samples.", None
    if result.partial and not result.gates:
        return "The budget ran out: certified accuracy is a lower bound. Give it more time, or fewer samples.", None
    if is_near_chance(result):
        return _as_guessing(report), f"pipeline inspect {model}"
    if level.certified.k == 0 and result.method.arithmetic == "none":
        return "Certify with rounding taken into account.", f"pipeline certify {command}"
    if level.certified.k * RARE < level.certified.n and report.kind == "certification":
        if 2 * level.natural.k < level.natural.n and result.preprocessing.mean is None:
            return _too_often_wrong(level), f"pipeline inspect {model}"
        middle = result.levels[len(result.levels) // 2].eps
        return _expected(report, level, middle), retrain and f"{retrain} {middle}"
    if failed is not None and failed.metric == "natural":
        return "The natural accuracy misses its gate before any attack: check data and preprocessing.", None
    if failed is not None and report.kind == "certification":
        return "A gate failed: retrain at its eps.", retrain and f"{retrain} {failed.eps}"
    if failed is not None:
        return "A gate failed: train longer, or give the model more width.", None
    if made_worse(report) is not None:
        return "Keep the given file, and train again: more epochs, a longer ramp, or a smaller eps.", None
    if report.kind == "retraining" and level.certified.k * RARE < level.certified.n:
        return "Next to nothing is certified after training: give it more epochs, or a smaller eps.", None
    if report.kind == "retraining":
        return "Ship the new file, and certify it wherever it is built.", f"pipeline certify {command}"
    floor = max(int(level.certified.k * 100 / level.certified.n) - 1, 0) / 100
    if not result.gates and floor <= share_of_guessing(result):
        return (
            "So few are certified that a file which always says one class could meet a gate at it: retrain for certificates.",
            retrain and f"{retrain} {level.eps}",
        )
    if not result.gates:
        return "Hold this in your pipeline with a gate.", (
            f"pipeline certify {command} --fail-under certified@{level.eps}={floor:.2f}"
        )
    return "Every gate passed: the file may be delivered.", None


def _expected(report: Report, level: Level, eps: str) -> str:
    """Why an ordinary model has no certificates, where bounds lose their precision, and what others attained."""
    sentences = [
        f"{'Next to nothing' if level.certified.k else '0 %'} certified is expected of a model trained in the ordinary "
        "way: its bounds are too wide to prove anything."
    ]
    where = lost(level.layers)
    if where is not None:
        layer = level.layers[where]
        sentences.append(
            f"They lose most on the way to layer {where + 1}, {clean(layer.name, 60)}, where they are "
            f"{layer.looseness:.3g} times as wide as what sampled points reach."
        )
    sentences.append("Retrain it for certificates.")
    published = (
        quoted(report.result.model.input.shape[1:], Fraction(eps))
        if report.result.threat.norm == "linf" and report.result.threat.features is None
        else None
    )
    return " ".join([*sentences, published] if published else sentences)


def _as_guessing(report: Report) -> str:
    if report.kind == "retraining":
        return "Training ended no better than guessing: train longer, or at a smaller eps; no gate is worth setting."
    return (
        "Look at the preprocessing before anything else: what the graph does to its input, --mean, --std, --range, --layout and "
        "the order of classes. No gate is worth setting on such a result."
    )


def _too_often_wrong(level: Level) -> str:
    return (
        f"The file gives {percent(level.natural.value)} of the samples their label, before any change. If it should be more, the "
        "deployment normalises pixels outside the file: say --mean and --std as it does. If not, retrain the model."
    )


def _preprocessing(report: Report) -> str:
    """The flags that stated it, to be stated again."""
    prepared, flags = report.result.preprocessing, []
    if "flag" in prepared.source:
        ends = prepared.range if prepared.range != (0.0, 1.0) else None
        for name, values in (("mean", prepared.mean), ("std", prepared.std), ("range", ends)):
            flags += [] if values is None else [f" --{name}={','.join(f'{v:.9g}' for v in values)}"]
    return "".join(flags)


def _threat(report: Report) -> str:
    """What flags said of it, to be said again."""
    if report.result.threat.features is None:
        return " --norm l2" if report.result.threat.norm == "l2" else ""
    arguments = dict(pairwise(report.run.argv))
    pairs = [(flag, arguments[flag]) for flag in BY_FEATURE if flag in arguments]
    return "".join(f" {flag} {shlex.quote(clean(value, 200))}" for flag, value in pairs)


def _as_given(report: Report) -> tuple[str, str]:
    argv, result = report.run.argv, report.result
    model = next((word for word in argv if PurePath(word).name == result.model.file), result.model.file)
    flags = dict(pairwise(argv))
    return model, flags.get("--test-data", flags.get("--data", result.data.uri))
