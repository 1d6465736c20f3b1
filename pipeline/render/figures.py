"""The figures of the page, each with its words for those who cannot see it and its numbers in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipeline.render.layers import layer_states, looseness
from pipeline.render.svg import COLOURS, Drawing, draw
from pipeline.render.threat import PIXELS, units
from pipeline.results.per_radius import ClassRow, Level, Margin
from pipeline.results.result import Report
from pipeline.results.text import clean, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES, MOST_ROWS = 20, 200
METRICS = ("natural", "attacked", "certified")


def figures(report: Report, level: Level) -> list[Drawing]:
    """Those figures that this report has the numbers for; per-class bars and margins are of `level`."""
    result = report.result
    drawings = []
    if result.training and len(result.training.curves) > 1:
        drawings.append(training_curves(result.training.curves))
    if len(result.levels) > 1:
        drawings.append(accuracy_curve(result.levels, units(result.threat)))
    rows = [row for row in result.per_class if row.eps == level.eps]
    if rows:
        drawings.append(class_bars(rows, result.data.class_names, level.eps))
    if level.margin is not None:
        drawings.append(margin_histogram(level.margin, level.eps))
    if level.layers:
        drawings.append(layer_states(level.layers, level.eps))
    if any(layer.looseness is not None for layer in level.layers):
        drawings.append(looseness(level.layers, level.eps))
    return drawings


def accuracy_curve(levels: tuple[Level, ...], units: str = PIXELS) -> Drawing:
    """Accuracy against eps with 95 % bands."""
    metrics = _metrics(levels[0].attacked)
    rows = tuple((v.eps, *(percent(getattr(v, m).value) for m in metrics)) for v in levels)
    description = "; ".join(f"at {row[0]}: {', '.join(row[1:])}" for row in rows)
    svg = draw(
        lambda figure: paint_curve(figure.add_subplot(), levels, units=units),
        key="curve",
        title="Accuracy against ε",
        description=description,
        height=2.7,
    )
    caption = "Share of all samples, with exact 95 % intervals."
    return Drawing("Accuracy against ε", caption, svg, metrics, ("ε", *metrics), rows)


def paint_curve(
    axes: Axes, levels: Sequence[Level], colours: Mapping[str, str] = COLOURS, *, units: str = PIXELS
) -> None:
    """Each accuracy against eps, with its exact 95 % interval as a band."""
    eps = [level.eps_float for level in levels]
    for name in _metrics(levels[0].attacked):
        rates = [getattr(level, name) for level in levels]
        low, high = ([100 * float(rate.ci95[end]) for rate in rates] for end in (0, 1))
        axes.fill_between(eps, low, high, color=colours[name], alpha=0.15, linewidth=0)
        values = [100 * rate.k / rate.n for rate in rates]
        axes.plot(eps, values, color=colours[name], marker="o", markersize=3.5, label=name)
    if eps[0] > 0 and eps[-1] > 6 * eps[0]:
        axes.set_xscale("log", base=2)
    axes.set_xticks(eps, [level.eps for level in levels])
    axes.minorticks_off()
    axes.set_xlabel(f"ε, in units of {units}")
    _percent_axis(axes)


def class_bars(rows: list[ClassRow], names: tuple[str, ...] | None, eps: str) -> Drawing:
    """Nested bars per class, the worst class first."""
    ordered = _worst_first(rows)
    some, metrics = ordered[:MOST_CLASSES], _metrics(rows[0].attacked)
    table = tuple(
        (_named(row, names, 60), str(row.n), *(_share(getattr(row, metric) or 0, row.n) for metric in metrics))
        for row in ordered
    )
    worst = ordered[0]
    caption = (
        f"At ε = {eps}, worst first: class {_named(worst, names, 40)} has {_share(worst.certified, worst.n)} certified."
    )
    if len(some) < len(ordered):
        caption += f" The {len(some)} worst of {len(ordered)} classes."
    height = 0.55 + 0.2 * max(len(some), 3)
    svg = draw(
        lambda figure: paint_classes(figure.add_subplot(), rows, names),
        key="classes",
        title="Accuracy by class",
        description=caption,
        height=height,
    )
    return Drawing("Accuracy by class", caption, svg, metrics, ("class", "samples", *metrics), table)


def paint_classes(
    axes: Axes, rows: Sequence[ClassRow], names: tuple[str, ...] | None, colours: Mapping[str, str] = COLOURS
) -> None:
    """A bar a class, within which certified, attacked and natural follow each other; the worst classes first."""
    some = _worst_first(rows)[:MOST_CLASSES]
    start = [0.0] * len(some)
    for name in reversed(_metrics(rows[0].attacked)):
        end = [100 * getattr(row, name) / max(row.n, 1) for row in some]
        widths = [right - left for left, right in zip(start, end, strict=True)]
        faint = 1.0 if name == "certified" else 0.45
        axes.barh(range(len(some)), widths, left=start, height=0.66, color=colours[name], alpha=faint)
        start = end
    axes.set_yticks(range(len(some)), [_named(row, names, 16) for row in some])
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 100)
    axes.set_xticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])


def _worst_first(rows: Sequence[ClassRow]) -> list[ClassRow]:
    return sorted(rows, key=lambda row: (row.certified / max(row.n, 1), row.label))


def _named(row: ClassRow, names: tuple[str, ...] | None, limit: int) -> str:
    return clean(names[row.label], limit) if names and row.label < len(names) else str(row.label)


def _metrics(attacked: object) -> tuple[str, ...]:
    return METRICS if attacked is not None else ("natural", "certified")


def margin_histogram(margin: Margin, eps: str) -> Drawing:
    """How far the proofs hold, or how far they miss."""
    edges, counts = margin.histogram.edges, margin.histogram.counts
    caption = (
        f"At ε = {eps}. A bound right of zero is a certificate; {margin.near_zero} of them lie below "
        f"{margin.near_zero_below:g}. Quantiles 5, 50, 95 %: {margin.p05:.3g}, {margin.p50:.3g}, {margin.p95:.3g}. "
        "The outermost bars hold all that lies beyond."
    )
    bins = zip(edges, edges[1:], counts, strict=False)
    rows = tuple((f"{left:.4g}", f"{right:.4g}", str(count)) for left, right, count in bins)
    svg = draw(
        lambda figure: paint_margins(figure.add_subplot(), margin),
        key="margins",
        title="Certified margins",
        description=caption,
        height=2.5,
    )
    return Drawing("Certified margins", caption, svg, (), ("from", "to", "samples"), rows)


def paint_margins(axes: Axes, margin: Margin, colours: Mapping[str, str] = COLOURS) -> None:
    """How many samples have which lower bound of their smallest margin; what lies right of zero is certified."""
    edges, counts = margin.histogram.edges, margin.histogram.counts
    painted = [colours["certified" if left >= 0 else "muted"] for left in edges[:-1]]
    widths = [0.9 * (right - left) for left, right in pairwise(edges)]
    axes.bar(edges[:-1], counts, width=widths, align="edge", color=painted)
    axes.axvline(0, color=colours["ink"], linewidth=0.8)
    axes.set_xlabel("lower bound of the smallest margin")
    axes.set_ylabel("samples")
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)


def training_curves(curves: tuple[dict[str, Any], ...]) -> Drawing:
    """Accuracy, loss and eps by epoch, from the columns `natural`, `certified`, `loss` and `eps` of the records."""
    x = [record.get("epoch", index) for index, record in enumerate(curves)]
    panels = [("accuracy", ("natural", "certified")), ("loss", ("loss",)), ("ε", ("eps",))]
    present = [(label, names) for label, names in panels if any(name in curves[-1] for name in names)]

    def paint(figure: Figure) -> None:
        sizes = [2.2 if label == "accuracy" else 1.0 for label, _ in present]
        grid = figure.subplots(max(len(present), 1), 1, sharex=True, squeeze=False, height_ratios=sizes or [1])
        for axes, (label, names) in zip(grid[:, 0], present, strict=False):
            for name in names:
                values = [_number(record.get(name)) for record in curves]
                scaled = [100 * v for v in values] if label == "accuracy" else values
                axes.plot(x, scaled, color=COLOURS.get(name, COLOURS["ink"]))
            axes.set_ylabel(label)
            axes.grid(True, axis="y")
            if label == "accuracy":
                _percent_axis(axes)
                axes.set_ylabel("")
            elif label == "ε":
                axes.set_ylim(bottom=0)
        grid[-1, 0].set_xlabel("epoch")

    columns = tuple(dict.fromkeys(key for record in curves for key in record))
    step = -(-len(curves) // MOST_ROWS)
    rows = tuple(tuple(_cell(record.get(column)) for column in columns) for record in curves[::step])
    caption = "By epoch, on samples held out of the training data."
    svg = draw(paint, key="training", title="Training", description=caption, height=1.1 + 0.85 * len(present))
    keys = tuple(name for name in ("natural", "certified") if name in curves[-1])
    return Drawing("Training", caption, svg, keys, tuple(clean(c, 30) for c in columns), rows)


def _percent_axis(axes: Any) -> None:
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])
    axes.grid(True, axis="y")


def _share(k: int, n: int) -> str:
    return f"{100 * k / n:.1f} %" if n else "–"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else clean(value, 40)
