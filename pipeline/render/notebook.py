"""A report where it was made: a fragment of HTML in a notebook, one figure, one line of text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from pipeline.render.advice import headline, strongest
from pipeline.render.figures import paint_classes, paint_curve, paint_margins
from pipeline.render.terminal import rates
from pipeline.render.threat import units
from pipeline.results.result import Report
from pipeline.results.text import clean, count, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

PALETTE = {
    "natural": "#3b6fb6",
    "attacked": "#d9921c",
    "certified": "#2e8b57",
    "ink": "#222222",
    "muted": "#8a8a8a",
}
"""The page takes its colours from the reader's light or dark; a figure has to bring its own."""
OUTCOMES = {True: "passed", False: "FAILED", None: "undecided"}
TABLE = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>")


def line(report: Report) -> str:
    """What was found, in a line."""
    result = report.result
    gates = [gate.passed for gate in result.gates]
    passed = f", {gates.count(True)} of {len(gates)} gates passed" if gates else ""
    return f"{clean(result.model.file, 60)}: {headline(report)[:-1]} ({count(result.data.n_evaluated)} samples{passed})"


def fragment(report: Report) -> str:
    """The headline, a row for each eps, the gates and the warnings; every name escaped and cut."""
    result = report.result
    header = Markup("").join(Markup("<th>{}</th>").format(name) for name in ("ε", "natural", "attacked", "certified"))
    rows = Markup("").join(
        Markup("<tr><td>{}</td>{}</tr>").format(
            level.eps,
            Markup("").join(
                Markup('<td title="{}">{}</td>').format(
                    "not attacked" if rate is None else f"{rate.k} of {rate.n}, 95 % interval {' to '.join(rate.ci95)}",
                    "–" if rate is None else percent(rate.value),
                )
                for _, rate in rates(level)
            ),
        )
        for level in result.levels
    )
    parts = [
        Markup("<p><b>{}</b><br>{}, {} of {} samples of {}</p>").format(
            headline(report),
            clean(result.model.file, 60),
            count(result.data.n_evaluated),
            count(result.data.n_total),
            clean(result.data.uri, 60),
        ),
        TABLE.format(header, rows),
    ]
    parts += [Markup("<p>{}: {}</p>").format(OUTCOMES[gate.passed], clean(gate.summary, 200)) for gate in result.gates]
    parts += [Markup("<p>Note: {}</p>").format(clean(caution.message, 400)) for caution in result.warnings]
    return str(escape(Markup("").join(parts)))


def plot(report: Report) -> Figure:
    """Accuracy against eps; natural, attacked and certified by class; margins: one figure, which notebooks show by themselves.

    Classes and margins are those of the eps that the headline speaks of.
    """
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that a notebook shows although nobody has loaded pyplot."""

        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png", dpi=110)
            return picture.getvalue()

    level = strongest(report)
    rows = [row for row in report.result.per_class if row.eps == level.eps]
    figure = Shown(figsize=(12, 3.4), layout="constrained")
    curve, classes, margins = figure.subplots(1, 3)
    paint_curve(curve, report.result.levels, PALETTE, units=units(report.result.threat))
    curve.set_title("accuracy against ε")
    curve.legend(frameon=False, loc="lower left")
    paint_classes(classes, rows, report.result.data.class_names, PALETTE)
    classes.set_title(f"by class at ε = {level.eps}, worst first")
    if level.margin is not None:
        paint_margins(margins, level.margin, PALETTE)
    margins.set_title(f"margins at ε = {level.eps}")
    for axes in (curve, classes, margins):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
