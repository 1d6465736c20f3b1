"""matplotlib drawings as inline SVG that follows the page: its colours, its font, light and dark, no script."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.4  # inches of 72 SVG units; text keeps a readable size when a phone scales it to two thirds
# Stand-ins for the page's own colours, which a drawing cannot know.
COLOURS = {"natural": "#010203", "attacked": "#010204", "certified": "#010205", "ink": "#010206", "muted": "#010207"}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid.axis": "y",
    "grid.color": COLOURS["muted"],
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Drawing:
    """A figure: SVG, caption, the series its colours stand for, and the numbers drawn."""

    title: str
    caption: str
    svg: Markup
    keys: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def draw(paint: Callable[[Figure], None], *, key: str, title: str, description: str, height: float) -> Markup:
    """The SVG of what `paint` puts on an empty figure of WIDTH x `height` inches; the same input, the same bytes."""
    return Markup(_inline(drawn(paint, key, height), key=key, title=title, description=description))


def drawn(paint: Callable[[Figure], None], key: str, height: float) -> str:
    """The SVG file of matplotlib for a figure, its identifiers derived from ``key``."""
    # matplotlib takes half a second to load; only a page needs it.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Not the user's own matplotlibrc: a report looks the same everywhere. Setting the backend would load pyplot.
    settings: Any = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    settings.update(STYLE, **{"svg.hashsalt": key})
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def _inline(text: str, *, key: str, title: str, description: str) -> str:
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Identifiers must differ among the drawings of a page.
    body = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', body)
    body = re.sub(r'(url\(|xlink:href=")#', rf"\1#{key}-", body)
    body = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font-size: \1", body)
    for name, stand_in in COLOURS.items():
        body = body.replace(stand_in, f"var(--{name})")
    size = re.search(r'viewBox="([^"]+)"', body)
    box = size[1] if size else "0 0 317 200"
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
        f'role="img" aria-labelledby="{key}-title {key}-desc"><title id="{key}-title">{escape(title)}</title>'
        f'<desc id="{key}-desc">{escape(description)}</desc>'
    )
    return start + body[body.index(">") + 1 :]
