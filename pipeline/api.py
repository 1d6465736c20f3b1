"""The commands as functions that return, for notebooks and programs: what is found shows itself, as text, table and figure.

The events of ``pipeline.commands`` are run to their end. A notebook shows progress while they do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import commands
from pipeline.choices import Mode, Optimization
from pipeline.errors import UsageError
from pipeline.render.run_report import RunReport
from pipeline.results import read
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.audit import Comparison
    from pipeline.audit.findings import Findings
    from pipeline.commands.inspection import Inspection

__all__ = ["RunReport", "certify", "compare", "inspect", "load", "merge", "retrain", "verify"]

Eps = str | Fraction | float | Sequence[str | Fraction | float]
Watch = Callable[[Any], None]


def certify(
    model: str | Path,
    data: Any = None,
    *,
    eps: Eps | None = None,
    norm: Literal["linf", "l2"] | None = None,
    scale: Literal["std", "range"] | None = None,
    scale_data: str | None = None,
    radius: str | Sequence[float] | None = None,
    features: Mapping[str, float | Mapping[str, float]] | None = None,
    fixed: Sequence[str | int] | None = None,
    movable: Sequence[str | int] | None = None,
    method: str | None = None,
    max_samples: int | None = None,
    seed: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    range: tuple[float, float] | None = None,
    layout: Literal["NCHW", "NHWC"] | None = None,
    label_offset: int | None = None,
    input: str | None = None,
    constants: Mapping[str, float | str | Sequence[float]] | None = None,
    output: str | None = None,
    threshold: float | None = None,
    arithmetic: Mode | None = None,
    attack: bool | None = None,
    attack_steps: int | None = None,
    restarts: int | None = None,
    largest_eps: bool | None = None,
    max_domains: int | None = None,
    time_budget: float | str | None = None,
    memory_budget: str | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    provider: Literal["cpu", "cuda"] | None = None,
    runtime_optimization: Optimization | None = None,
    fail_under: Sequence[str] | None = None,
    gate_on: Literal["value", "lower-ci"] | None = None,
    baseline: str | None = None,
    max_regression: Sequence[str] | None = None,
    significance: str | float | None = None,
    require_parity: str | float | None = None,
    parity_seed: int | None = None,
    shard: str | None = None,
    download: bool | None = None,
    thumbnails: bool | None = None,
    report: str | Path | None = None,
    proof: str | Path | None = None,
    watch: Watch | None = None,
) -> RunReport:
    """Certify an ONNX file on a data set; what is left out comes from ``pipeline.toml``, the file, or defaults.

    ``data`` is a URI (``"npz:test.npz"``), a pair ``(images, labels)`` of arrays, or a Dataset of PyTorch: pixels in the valid
    range, before any normalisation. ``eps`` is one radius or several, as fractions of the pixel range: ``"8/255"`` is exact. Of
    tabular data it multiplies the radius of each feature: ``scale``, ``radius`` and ``features`` (radius, low, high by name).
    Other arguments are the flags of ``pipeline certify``. The report's folder is ``report``, else the model's name with .report
    here; ``proof`` is a folder for proofs, as of ``--proof``. ``watch`` is called with each event on the way. Raises what the
    exit codes stand for (``pipeline.errors``); a gate that fails does not raise: see ``verdict``.
    """
    given = {name: value for name, value in locals().items() if name in Settings.model_fields and value is not None}
    del given["eps"], given["data"]
    named = data if isinstance(data, str) else None
    in_memory = None if named is not None else _data(data)
    flags = _flags(named, eps, given)
    events = commands.certify(_file(model), flags, data=in_memory, report=_path(report), proof=_path(proof))
    return _end(events, watch)


def retrain(
    model: str | Path,
    data: str | None = None,
    *,
    eps: Eps | None = None,
    out: str | Path | None = None,
    force: bool = False,
    report: str | Path | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> RunReport:
    """Train the model in an ONNX file to be certifiable at the largest ``eps``, write ``out``, and certify what was written.

    Beside those of ``certify``, ``settings`` are those of the recipe: ``recipe="shi2021"``, ``epochs=30``. ``out`` is the
    model's name with .certified.onnx unless said. The result's ``training`` compares the two files.
    """
    known = {name: settings.pop(name) for name in list(settings) if name in Settings.model_fields}
    flags = _flags(data, eps, known) | {"retrain": settings}
    return _end(commands.retrain(_file(model), flags, out=_path(out), force=force, report=_path(report)), watch)


def merge(
    reports: Sequence[str | Path],
    *,
    report: str | Path | None = None,
    baseline: str | Path | None = None,
    watch: Watch | None = None,
) -> RunReport:
    """The report of a run of which each of ``reports`` holds a shard; its gates are decided here."""
    return _end(commands.merge([Path(one) for one in reports], report=_path(report), baseline=_path(baseline)), watch)


def load(report: str | Path) -> RunReport:
    """A report that was written before. Raises UsageError (2) where there is none, Contradiction (5) for one that was changed."""
    path = Path(report)
    return RunReport(read(path), path if path.is_dir() else path.parent)


def inspect(model: str | Path, **settings: Any) -> Inspection:
    """What ``certify`` and ``retrain`` would find out of a file before they start; ``settings`` as ``certify`` takes them."""
    return commands.inspect(_file(model), settings)


def verify(
    report: RunReport | str | Path,
    *,
    model: str | Path | None = None,
    data: Any = None,
    recheck: int | None = None,
    seed: int | None = None,
    watch: Watch | None = None,
) -> Findings:
    """Whether a report is what it was, and holds of a model and data: what was checked, what was not, and each fault.

    Nothing is wrong where ``faults`` is empty. ``recheck`` proves so many samples again, drawn by chance or by ``seed``.
    """
    from pipeline.audit.findings import Findings

    path = report.folder if isinstance(report, RunReport) else Path(report)
    found = Findings()
    for event in _shown(commands.verify(path, model=_path(model), data=_data(data), recheck=recheck, seed=seed), watch):
        if isinstance(event, Findings):
            found = event
    return found


def compare(before: RunReport | str | Path, after: RunReport | str | Path) -> Comparison:
    """What changed from one report to another on the same samples, sample by sample."""
    from pipeline.audit import compare

    one, two = (side.folder if isinstance(side, RunReport) else Path(side) for side in (before, after))
    return compare(one, two)


def _file(model: Any) -> Path:
    if not isinstance(model, str | Path):
        raise UsageError(
            f"what is certified is a file: model is the path of an ONNX file; received {type(model).__name__}. Write it with "
            "torch.onnx.export first."
        )
    return Path(model)


def _data(data: Any) -> Any:
    """Data by their URI, or None, as they are; what is in memory as a Dataset."""
    if data is None or isinstance(data, str):
        return data
    from pipeline.data.memory import from_memory

    return from_memory(data)


def _flags(data: str | None, eps: Eps | None, settings: dict[str, Any]) -> dict[str, Any]:
    several = [eps] if isinstance(eps, str | Fraction | float | int) else eps
    radii = None if several is None else ",".join(str(one) for one in several)
    return settings | {"data": data, "eps": radii}


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _end(events: Iterator[Any], watch: Watch | None) -> RunReport:
    for event in _shown(events, watch):
        if isinstance(event, commands.Done):
            return RunReport(event.report, event.folder)
    raise AssertionError("a run ends with Done")


def _shown(events: Iterator[Any], watch: Watch | None) -> Iterator[Any]:
    """The events, each shown to ``watch``; to a bar and as text where there is none and this is a notebook."""
    if watch is None and "ipykernel" not in sys.modules:
        yield from events
        return
    from rich.progress import Progress as Bars

    from pipeline.progress import Progress

    with Bars(transient=True, disable=watch is not None) as bars:
        tasks: dict[str, Any] = {}
        for event in events:
            if watch is not None:
                watch(event)
            elif isinstance(event, Progress):
                if event.phase not in tasks:
                    tasks[event.phase] = bars.add_task(event.phase, total=event.total)
                bars.update(tasks[event.phase], completed=event.done, total=event.total)
            elif isinstance(event, commands.Note):
                bars.console.print(
                    f"{'warning' if event.warning else 'note'}: {event.text}", markup=False, highlight=False
                )
            yield event
