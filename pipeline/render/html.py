"""The report as one HTML page: self-contained, without script, readable from a phone to paper."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from pipeline.render.advice import headline, next_step, strongest
from pipeline.render.figures import figures
from pipeline.render.terminal import change, rates
from pipeline.render.threat import sentence, where, who
from pipeline.render.thumbnails import Pictures
from pipeline.render.unknown import nearest, reasons
from pipeline.results.rate import Rate
from pipeline.results.result import Report
from pipeline.results.text import clean, count, percent

LONGEST = 2000


def render(report: Report, *, pictures: Pictures | None = None) -> str:
    """The page, with pictures of the samples that it names, where there are any.

    Every value is escaped, stripped of control characters and cut; a name is cut at 200 characters.
    """
    level = strongest(report)
    following, command = next_step(report)
    return _template().render(
        report=report,
        result=report.result,
        level=level,
        headline=headline(report),
        threat=sentence(report.result.threat),
        who=who(report.result.threat),
        where=where(report.result.threat),
        figures=figures(report, level),
        next_sentence=following,
        next_command=command,
        pictures=pictures or {},
        reasons=reasons(report, level),
        unfinished=nearest(level),
        style=Markup(_beside("report.css")),
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    environment.filters |= {
        "name": clean,
        "count": count,
        "percent": percent,
        "shape": _shape,
        "bar": _bar,
        "g": _general,
        "png": _png,
    }
    environment.globals |= {"rates": rates, "change": change}
    return environment.from_string(_beside("report.html"))


def _finalize(value: Any) -> Any:
    # Also what the template forgot to cut.
    return clean(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return " × ".join("?" if size is None else clean(size, 20) for size in shape)


def _png(content: bytes) -> Markup:
    return Markup(f"data:image/png;base64,{b64encode(content).decode()}")


def _general(value: float) -> str:
    return f"{value:g}"


def _bar(rate: Rate) -> str:
    """The style of a bar: its length, and where its interval lies, in per cent of the track."""
    low, high = (100 * float(end) for end in rate.ci95)
    return f"--value:{100 * rate.k / rate.n:.3f}%;--low:{low:.2f}%;--span:{high - low:.2f}%"
