"""certify and retrain as functions that return: the events of ``pipeline.commands``, run to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline import commands
from pipeline.results import Result
from pipeline.settings import Settings

Eps = str | Fraction | float | Sequence[str | Fraction | float]


def certify(
    model: str | Path,
    data: str | None = None,
    *,
    eps: Eps | None = None,
    report: str | Path | None = None,
    watch: Callable[[Any], None] | None = None,
    **settings: Any,
) -> Result:
    """Certify an ONNX file on a data set; what is left out comes from ``pipeline.toml``, the file, or defaults.

    ``eps`` is one radius or several, as fractions of the pixel range: ``"8/255"`` is exact. ``settings`` are those of
    ``pipeline.settings.Settings``: ``max_samples=200``, ``method="ibp"``, ``fail_under=("certified=0.3",)``. The report's folder
    is ``report``, else the model's name with .report here. ``watch`` is called with each event on the way. Raises what the exit
    codes stand for (``pipeline.errors``); a gate that fails does not raise: see ``verdict`` of the result.
    """
    return _end(commands.certify(Path(model), _flags(data, eps, settings), report=_path(report)), watch)


def retrain(
    model: str | Path,
    data: str | None = None,
    *,
    eps: Eps | None = None,
    out: str | Path | None = None,
    force: bool = False,
    report: str | Path | None = None,
    watch: Callable[[Any], None] | None = None,
    **settings: Any,
) -> Result:
    """Train the model in an ONNX file to be certifiable at the largest ``eps``, write ``out``, and certify what was written.

    Beside those of ``certify``, ``settings`` are those of the recipe: ``recipe="shi2021"``, ``epochs=30``. ``out`` is the
    model's name with .certified.onnx unless said. The result's ``training`` compares the two files.
    """
    known = {name: settings.pop(name) for name in list(settings) if name in Settings.model_fields}
    flags = _flags(data, eps, known) | {"retrain": settings}
    return _end(commands.retrain(Path(model), flags, out=_path(out), force=force, report=_path(report)), watch)


def _flags(data: str | None, eps: Eps | None, settings: dict[str, Any]) -> dict[str, Any]:
    several = [eps] if isinstance(eps, str | Fraction | float | int) else eps
    radii = None if several is None else ",".join(str(one) for one in several)
    return settings | {"data": data, "eps": radii}


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _end(events: Iterator[Any], watch: Callable[[Any], None] | None) -> Result:
    for event in events:
        if watch is not None:
            watch(event)
        if isinstance(event, commands.Done):
            return event.report.result
    raise AssertionError("a run ends with Done")
