"""The figures of a network's layers: which of their units bounds leave unstable, and where bounds lose their precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.render.svg import COLOURS, Drawing, draw
from pipeline.results.per_radius import Layer
from pipeline.results.text import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LAYERS = 30
STATES = ("active", "inactive", "unstable")
TONES = {"active": COLOURS["certified"], "inactive": COLOURS["muted"], "unstable": COLOURS["attacked"]}
FAINT = {"active": 1.0, "inactive": 0.35, "unstable": 1.0}


def layer_states(layers: tuple[Layer, ...], eps: str) -> Drawing:
    """Stacked bars: the share of units that are surely on, surely off, or either within the box."""
    first = layers[:MOST_LAYERS]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        start = [0.0] * len(first)
        for state in STATES:
            widths = [100 * getattr(layer, state) for layer in first]
            axes.barh(range(len(first)), widths, left=start, height=0.66, color=TONES[state], alpha=FAINT[state])
            start = [left + width for left, width in zip(start, widths, strict=True)]
        axes.set_yticks(range(len(first)), [str(i + 1) for i in range(len(first))])
        axes.set_ylabel("layer")
        axes.invert_yaxis()
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, 100)
        axes.set_xticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])

    rows = tuple(
        (
            str(i + 1),
            clean(layer.name, 60),
            clean(layer.kind, 40),
            *(f"{100 * getattr(layer, s):.1f} %" for s in STATES),
        )
        for i, layer in enumerate(layers)
    )
    worst = max(range(len(layers)), key=lambda i: layers[i].unstable)
    caption = (
        f"At ε = {eps}, by IBP, from input to output. A unit is unstable where its sign may change within the box: most in "
        f"layer {worst + 1}, {clean(layers[worst].name, 60)}, with {100 * layers[worst].unstable:.1f} %."
    )
    svg = draw(paint, key="states", title="Units by layer", description=caption, height=0.7 + 0.2 * max(len(first), 3))
    header = ("layer", "name", "kind", *STATES)
    return Drawing("Units by layer", caption, svg, STATES, header, rows)


def looseness(layers: tuple[Layer, ...], eps: str) -> Drawing:
    """How many times wider than what a few points reach the boxes are, on a logarithmic axis."""
    measured = [(i, layer.looseness) for i, layer in enumerate(layers[:MOST_LAYERS]) if layer.looseness is not None]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(
            [i + 1 for i, _ in measured],
            [value for _, value in measured],
            color=COLOURS["ink"],
            marker="o",
            markersize=3.5,
        )
        axes.set_yscale("log")
        low, high = min(value for _, value in measured), max(value for _, value in measured)
        axes.set_ylim(min(low, 1) * 0.8, max(high, 10) * 1.25)
        axes.set_xticks([i + 1 for i, _ in measured])
        axes.set_xlim(0.5, len(layers[:MOST_LAYERS]) + 0.5)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.minorticks_off()
        axes.set_xlabel("layer")
        axes.grid(True, axis="y")

    rows = tuple(
        (
            str(i + 1),
            clean(layer.name, 60),
            "–" if layer.mean_radius is None else f"{layer.mean_radius:.4g}",
            "–" if layer.looseness is None else f"{layer.looseness:.4g}",
        )
        for i, layer in enumerate(layers)
    )
    where = lost(layers)
    worst = "" if where is None else f" Most is lost on the way to layer {where + 1}, {clean(layers[where].name, 60)}."
    caption = (
        f"At ε = {eps}, by IBP: the width of the boxes over that which values at a few of their vertices span.{worst}"
    )
    svg = draw(paint, key="looseness", title="Looseness by layer", description=caption, height=2.3)
    return Drawing("Looseness by layer", caption, svg, (), ("layer", "name", "mean radius", "looseness"), rows)


def lost(layers: tuple[Layer, ...]) -> int | None:
    """The layer before which bounds widen most, as a factor over the layer before it; None where nothing is known of it."""
    measured = [(i, layer.looseness) for i, layer in enumerate(layers) if layer.looseness]
    factors = [(now / before, i) for (_, before), (i, now) in zip([(-1, 1.0), *measured], measured, strict=False)]
    return max(factors)[1] if factors else None
