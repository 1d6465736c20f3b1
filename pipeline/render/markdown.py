"""A report in Markdown, for the page of a job: what was found, the gates, what next; small, and without a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.render.advice import headline, next_step, nothing_checked, strongest
from pipeline.render.terminal import change, rates
from pipeline.render.threat import sentence
from pipeline.render.unknown import reasons
from pipeline.results.per_radius import Level
from pipeline.results.rate import Rate
from pipeline.results.result import Report
from pipeline.results.text import clean, count, percent
from pipeline.results.threat import Threat

# What means something within a line; a colon and a point only where they would make a link.
MEANING = re.compile(r"([\\`*_{}\[\]()<>!|~&$#]|:(?=/)|(?<=www)\.)", re.IGNORECASE)
WORDS = {True: "✅ pass", False: "❌ **fail**", None: "⚠️ **open**"}
MOST_WARNINGS, MOST_LEVELS, MOST_GATES = 20, 50, 100


def prose(text: object, limit: int = 400) -> str:
    """Strangers' text as plain words within a line of ours: no markup, no HTML, no link, no mention of a user."""
    # Any punctuation character may be escaped (CommonMark 0.31, 2.4); a word joiner keeps @name from calling anyone.
    return MEANING.sub(r"\\\1", clean(text, limit)).replace("@", "@\u2060")


def cell(text: object, limit: int = 80) -> str:
    """Strangers' text as code in a table's cell."""
    # A bar would open a column even within code, and after a backslash even an escaped one would.
    plain = clean(text, limit).replace("|", "¦")
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{plain}{space}{fence}" if plain.strip() else "–"


def markdown(report: Report) -> str:
    """The report as GitHub and GitLab show it; at most some tens of kilobytes, a step's summary being cut at a mebibyte."""
    result = report.result
    parts = [f"### {headline(report)}", *_verdict(report)]
    parts += [_level(result.levels[0]) if len(result.levels) == 1 else _curve(result.levels)]
    parts += _before_after(report)
    parts += _gates(report)
    parts += [
        f"{'**Warning:**' if caution.code else 'Note:'} {prose(caution.message)}"
        for caution in result.warnings[:MOST_WARNINGS]
    ]
    parts += [f"Unknown: {prose(why)}" for why in reasons(report, strongest(report))]
    sentence, command = next_step(report)
    parts += [f"**Next:** {prose(sentence, 1000)}"]
    # An indented block takes any line as it is.
    parts += [f"    {command}"] if command else []
    parts += ["<details><summary>What was certified, and how</summary>", _facts(report), "</details>"]
    return "\n\n".join(parts) + "\n"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [header, ("---", *("---:",) * (len(header) - 1)), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _verdict(report: Report) -> list[str]:
    result = report.result
    if result.shard is not None:
        return [f"A share of {count(result.shard.n_run)} samples; it decides no gate."]
    if nothing_checked(report):
        return ["**Nothing was checked.**"]
    if not result.gates:
        return ["No gate was asked; what is not asked cannot fail.", *(["Partial: a budget ran out."] * result.partial)]
    failed, undecided = (sum(gate.passed is state for gate in result.gates) for state in (False, None))
    problems = [f"{failed} of {len(result.gates)} gates failed"] * (failed > 0) + [f"{undecided} undecided"] * (
        undecided > 0
    )
    return [f"**{', '.join(problems).capitalize()}.**" if problems else f"All {len(result.gates)} gates passed."]


def _level(level: Level) -> str:
    rows = []
    for name, rate in rates(level):
        if rate is None:
            rows.append((name, "not attacked", "", ""))
            continue
        low, high = map(percent, rate.ci95)
        least = "at least " if name == "certified" and level.undecided else ""
        rows.append(
            (f"{least}{name}", f"**{percent(rate.value)}**", f"{count(rate.k)} of {count(rate.n)}", f"{low} to {high}")
        )
    return table((f"ε = {level.eps}", "accuracy", "samples", "95 % interval"), rows)


def _curve(levels: tuple[Level, ...]) -> str:
    rows = []
    for level in levels[:MOST_LEVELS]:
        natural, attacked, certified = (_or_dash(rate) for _, rate in rates(level))
        rows.append((level.eps, natural, attacked, f"{'≥ ' if level.undecided else ''}**{certified}**"))
    return table(("ε", "natural", "attacked", "certified"), rows)


def _before_after(report: Report) -> list[str]:
    training = report.result.training
    if training is None or training.before is None or training.after is None:
        return []
    sides = zip(rates(training.before), rates(training.after), strict=True)
    rows = [(name, _or_dash(before), _or_dash(after), change(before, after)) for (name, before), (_, after) in sides]
    return [table((f"ε = {training.after.eps}", "before", "after", "change, points"), rows)]


def _gates(report: Report) -> list[str]:
    rows = [
        (cell(g.id), g.observed, f"{g.comparator} {g.threshold}".replace(">", "\\>").replace("<", "\\<"),
         f"{count(g.k)} of {count(g.n)}", WORDS[g.passed])
        for g in report.result.gates[:MOST_GATES]
    ]  # fmt: skip
    return [table(("gate", "observed", "required", "samples", "outcome"), rows)] if rows else []


def _facts(report: Report) -> str:
    result, level = report.result, strongest(report)
    model, data = result.model, result.data
    worst = min(
        (row for row in result.per_class if row.eps == level.eps),
        key=lambda row: (row.certified / max(row.n, 1), row.label),
        default=None,
    )
    rows = [
        ("model", cell(model.file)),
        ("SHA-256", f"`{model.sha256}`"),
        ("data", f"{cell(data.uri)}, {count(data.n_evaluated)} of {count(data.n_total)} samples"),
        ("threat", _threat(result.threat)),
        ("proof", f"{', '.join(result.method.bounds)}; arithmetic `{result.method.arithmetic}`"),
    ]
    if worst is not None:
        names = data.class_names
        named = f" {cell(names[worst.label], 40)}" if names and worst.label < len(names) else ""
        rows += [("worst class", f"{worst.label}{named}: {worst.certified} of {worst.n} certified at ε = {level.eps}")]
    if report.run.stopped_by:
        rows += [("stopped by", cell(report.run.stopped_by))]
    rows += [("result", f"`{report.result_sha256}`")]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _threat(threat: Threat) -> str:
    if threat.features is not None:
        return cell(sentence(threat), 400)
    return f"{'L∞' if threat.norm == 'linf' else 'L2'}, clipped to the pixel range"


def _or_dash(rate: Rate | None) -> str:
    return "–" if rate is None else percent(rate.value)
