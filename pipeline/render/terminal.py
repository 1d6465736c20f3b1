"""A report in the terminal: rich renderables, built of plain text so that no stranger's name is read as markup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.render.advice import headline, next_step, strongest
from pipeline.render.threat import where, who
from pipeline.render.unknown import reasons
from pipeline.results.outcome import GateOutcome
from pipeline.results.per_radius import Level
from pipeline.results.rate import Rate
from pipeline.results.result import Accuracies, Report
from pipeline.results.text import clean, count, percent

BAR = 24
ROOM = 6
"""What a frame takes of a line beside its title."""
STYLES = {"natural": "blue", "attacked": "yellow", "certified": "green"}
STATES = {True: ("PASS", "bold green"), False: ("FAIL", "bold red"), None: ("OPEN", "bold yellow")}


@dataclass(frozen=True)
class Meter:
    """A rate as a line that gives way where the terminal is narrow; empty says none, full says all."""

    rate: Rate
    style: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(4, BAR)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(BAR, options.max_width)
        filled = max(self.rate.k * width // self.rate.n, 1) if self.rate.k else 0
        yield Text.assemble(("━" * filled, self.style), ("─" * (width - filled), "dim"))


@dataclass(frozen=True)
class _Titled:
    """A panel under a headline; where that does not fit into the frame it comes first inside, since rich would cut it."""

    headline: str
    body: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title = Text(self.headline, style="bold")
        if title.cell_len + ROOM <= options.max_width:
            yield Panel(self.body, title=title, title_align="left", padding=(1, 2))
        else:
            yield Panel(Group(title, Text(), self.body), padding=(1, 2))


def panel(report: Report, *, folder: Path | None = None) -> RenderableType:
    """Model, data, threat; natural, attacked, certified accuracy per eps; gates; where the report is; what next."""
    result = report.result
    parts: list[RenderableType] = [_facts(report), Text()]
    parts += [_level(level) for level in result.levels] if len(result.levels) == 1 else [_curve(result.levels)]
    if strongest(report).rungs:
        parts += [Text(), _ladder(report, strongest(report))]
    if result.gates:
        parts += [Text(), *map(_gate, result.gates)]
    parts += [Text(), _remarks(report, folder)]
    return _Titled(headline(report), Group(*parts))


def before_after(report: Report) -> RenderableType:
    """Natural, attacked and certified accuracy of the given model and of the retrained one; empty without training."""
    training = report.result.training
    if training is None or training.before is None or training.after is None:
        return Text()
    table = Table(box=None, header_style="dim", padding=(0, 2))
    for name in (f"ε = {training.after.eps}", "before", "after", "change"):
        table.add_column(name, justify="left" if name.startswith("ε") else "right")
    for name in STYLES:
        before, after = (getattr(side, name) for side in (training.before, training.after))
        table.add_row(Text(name, style=STYLES[name]), _or_dash(before), _or_dash(after), change(before, after))
    return table


def change(before: Rate | None, after: Rate | None) -> str:
    """The difference of two rates in points, with its sign."""
    return "–" if before is None or after is None else f"{100 * (after.k / after.n - before.k / before.n):+.1f}"


def rates(level: Level | Accuracies) -> list[tuple[str, Rate | None]]:
    """The three accuracies with their names, from the weakest claim to the strongest."""
    return [("natural", level.natural), ("attacked", level.attacked), ("certified", level.certified)]


def _facts(report: Report) -> RenderableType:
    result = report.result
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    model, data, threat = result.model, result.data, result.threat
    evaluated = (
        f"{count(data.n_evaluated)} of {count(data.n_total)}"
        if data.n_evaluated < data.n_total
        else count(data.n_total)
    )
    grid.add_row("Model", Text(f"{clean(model.file, 60)}  {count(model.parameters)} parameters, {model.sha256[:12]}"))
    grid.add_row("Data", Text(f"{clean(data.uri, 60)}  {clean(data.part, 20)} part, {evaluated} samples"))
    within = f"{who(threat)} {where(threat)}, by at most ε = {_all_eps(result.levels)}"
    if threat.features is not None:
        within = f"{who(threat)}, ε = {_all_eps(result.levels)}; radii are {clean(threat.features.units, 200)}"
    grid.add_row("Threat", Text(within))
    bounds = ", then ".join(result.method.bounds)
    grid.add_row("Proof", Text(f"{bounds} in {result.method.dtype}, arithmetic {result.method.arithmetic}"))
    largest = result.largest_eps
    if largest is not None:
        between = f"half of the correct samples from {largest.p25:.4g} to {largest.p75:.4g}"
        grid.add_row("Largest ε", Text(f"median {largest.p50:.4g}, {between}, to within {largest.tolerance}"))
    return grid


def _all_eps(levels: tuple[Level, ...]) -> str:
    return ", ".join(level.eps for level in levels)


def _level(level: Level) -> RenderableType:
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column(f"ε = {level.eps}", no_wrap=True)
    grid.add_column()
    grid.add_column("accuracy", justify="right", no_wrap=True)
    grid.add_column("samples", justify="right", style="dim", no_wrap=True)
    grid.add_column("95 % interval", style="dim", no_wrap=True)
    for name, rate in rates(level):
        if rate is None:
            grid.add_row(Text(name), Text("not attacked", style="dim"), "–", "", "")
        else:
            low, high = (percent(end)[:-2] for end in rate.ci95)
            of = f"{count(rate.k)}/{count(rate.n)}"
            label = f"{name} (at least)" if name == "certified" and level.undecided else name
            grid.add_row(Text(label), Meter(rate, STYLES[name]), percent(rate.value), of, f"{low} – {high}")
    return grid


def _curve(levels: tuple[Level, ...]) -> RenderableType:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("ε")
    for name in STYLES:
        table.add_column(name, justify="right")
    table.add_column()
    for level in levels:
        *weaker, certified = (_or_dash(rate) for _, rate in rates(level))
        least = "≥ " if level.undecided else ""
        table.add_row(level.eps, *weaker, f"{least}{certified}", Meter(level.certified, STYLES["certified"]))
    return table


def _ladder(report: Report, level: Level) -> RenderableType:
    """What each rung examined and decided at one eps, and in how many seconds."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(f"at ε = {level.eps}")
    for column in ("examined", "decided", "certified", "seconds"):
        table.add_column(column, justify="right")
    for rung in level.rungs:
        seconds = report.run.timings.get(f"{rung.name}@{level.eps}")
        duration = "–" if seconds is None else f"{seconds:.1f}"
        cells = (count(rung.examined), f"+{count(rung.decided)}", count(rung.certified), duration)
        table.add_row(rung.name, *(Text(cell) for cell in cells))
    for name, seconds in _other_times(report, level):
        table.add_row(Text(name, style="dim"), "", "", "", Text(f"{seconds:.1f}"))
    return table


def _other_times(report: Report, level: Level) -> list[tuple[str, float]]:
    """Where the rest of the run's seconds went, and all of them: the column adds up, but for rounding."""
    timings = report.run.timings
    of_rungs = sum(timings.get(f"{rung.name}@{level.eps}", 0.0) for rung in level.rungs)
    training = sum(seconds for name, seconds in timings.items() if name.startswith("epoch "))
    rungs = sum(timings.values()) - training - of_rungs
    rest = report.run.seconds - of_rungs - rungs - training
    if rest < 0:  # a run that was gone on with: what was spent before it began is no part of it
        return []
    rows = [("other ε, predictions", rungs), ("training", training), ("opening, comparing, sampling", rest)]
    return [*(row for row in rows if row[1] >= 0.05), ("the whole run", report.run.seconds)]


def _or_dash(rate: Rate | None) -> str:
    return "–" if rate is None else percent(rate.value)


def _gate(gate: GateOutcome) -> RenderableType:
    word, style = STATES[gate.passed]
    return Text.assemble((word, style), f"  {gate.summary}")


def _remarks(report: Report, folder: Path | None) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for caution in report.result.warnings:
        label = Text("Warning", style="bold red") if caution.code else Text("Note", style="bold yellow")
        grid.add_row(label, Text(clean(caution.message, 1000)))
    for i, why in enumerate(reasons(report, strongest(report))):
        grid.add_row(Text("" if i else "Unknown", style="bold yellow"), Text(why))
    sentence, command = next_step(report, here=True)
    grid.add_row(Text("Next", style="bold"), Text(sentence))
    if command:
        grid.add_row("", Text(command, style="cyan"))
    if folder is not None:
        grid.add_row(Text("Report", style="bold"), Text(clean(folder / "report.html", 1000)))
    return grid
