"""Reports in order, of every kind, and all that reads one: verification with its proofs, comparison, export, renderings."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import pipeline.data
from pipeline.api import certify, retrain
from pipeline.audit.comparison import compare
from pipeline.commands.export import export_vnnlib
from pipeline.commands.properties import decide
from pipeline.commands.reopen import pictures
from pipeline.commands.verification import verify
from pipeline.errors import PipelineError
from pipeline.render import junit, markdown, panel, render, statement
from pipeline.results import read
from pipeline.results.canonical import digest
from tests.fuzz.judge import judge

JSON = "report.json"
INDEX = 5
"""A sample of the reports; it is falsified at the larger eps."""


@dataclass(frozen=True)
class Case:
    """A report in order, with all that it describes and is about in one folder; ``about`` is what ``verify`` is told."""

    files: dict[str, bytes]
    about: dict[str, Any]

    def write(self, folder: Path, **changed: bytes) -> dict[str, Any]:
        """Its files, some of them changed; what to tell ``verify`` of this folder."""
        folder.mkdir(exist_ok=True)
        for name, content in (self.files | changed).items():
            (folder / name).write_bytes(content)
        files = ("model", "property_file")
        return {key: folder / value if key in files else value for key, value in self.about.items()}


@cache
def cases() -> tuple[Case, ...]:
    """A certification with gates and a baseline, a retraining, a property with its witness."""
    digits = Path(pipeline.data.__file__).parent / "digits.onnx"
    how: dict[str, Any] = {"max_samples": 16, "method": "ibp"}
    radii: dict[str, Any] = {"eps": ("0.002", "0.1"), "largest_eps": True, **how}
    with tempfile.TemporaryDirectory() as name, torch.random.fork_rng():
        folder = Path(name)
        zero, one, two, three = (folder / part for part in ("baseline", "certified", "retrained", "property"))
        two.mkdir(), three.mkdir()
        certify(digits, "digits", report=zero, **radii)
        gates = {"fail_under": ("natural=0.4", "certified@0.002=0.3"), "max_regression": ("certified@0.002=0.01",)}
        certify(digits, "digits", report=one, baseline=str(zero), significance="0.05", **gates, **radii)
        retrain(digits, "digits", eps="0.1", out=two / "m.onnx", report=two, recipe="vanilla-ibp", epochs=2, **how)
        (three / "p.vnnlib").write_text(export_vnnlib(one, INDEX, eps="0.1"))
        list(decide(digits, three / "p.vnnlib", {"method": "ibp"}, report=three))
        for place in (one, three):
            (place / "m.onnx").write_bytes(digits.read_bytes())

        def files(place: Path) -> dict[str, bytes]:
            return {f.name: f.read_bytes() for f in place.iterdir() if f.is_file() and f.suffix != ".html"}

        samples = {"model": "m.onnx", "data": "digits", "recheck": 1, "seed": 0}
        prop = {"model": "m.onnx", "property_file": "p.vnnlib", "recheck": 1}
        return Case(files(one), samples), Case(files(two), samples), Case(files(three), prop)


def sealed(report: bytes, **files: bytes) -> bytes:
    """The report with the digests that its forger would put into it, as far as it is still one."""
    try:
        raw = json.loads(report)
        for key, content in files.items():
            raw["result"][key]["sha256"] = hashlib.sha256(content).hexdigest()
        raw["result_sha256"] = digest(raw.get("result"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return report
    return json.dumps(raw).encode("utf-8", "replace")


def read_report(content: bytes, folder: Path) -> None:
    """A report.json, forged, among the files of the case that it was made from."""

    def kind(report: bytes) -> Any:
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            return json.loads(report).get("kind")

    case = next((c for c in cases() if kind(c.files[JSON]) == kind(content)), cases()[0])
    about = case.write(folder, **{JSON: sealed(content)})

    def draw() -> None:
        report = read(folder)
        for rendering in (render, panel, markdown, junit, statement):
            rendering(report)

    _attempt(draw)
    _read(case, folder, about)


def read_samples(content: bytes, folder: Path) -> None:
    """The samples of a certification, forged. No drawing depends on them but pictures."""
    case = cases()[0]
    about = case.write(folder, **_beside("samples", content))
    _attempt(lambda: pictures(folder, "digits"))
    _read(case, folder, about)


def read_counterexamples(content: bytes, folder: Path) -> None:
    """The points of a certification, forged. Only verification reads them, and no proof depends on them."""
    about = cases()[0].write(folder, **_beside("counterexamples", content))
    list(verify(folder, **(about | {"recheck": None, "seed": None})))


def _beside(key: str, content: bytes) -> dict[str, bytes]:
    """A file beside a report, and the report with the digest of what became of it."""
    return {f"{key}.npz": content, JSON: sealed(cases()[0].files[JSON], **{key: content})}


def _read(case: Case, folder: Path, about: dict[str, Any]) -> None:
    """All that reads a folder reads this one, and each may refuse it; raises what verification does."""
    honest = folder / "honest"
    case.write(honest)
    _attempt(lambda: compare(folder, honest))
    _attempt(lambda: compare(honest, folder))
    _attempt(lambda: export_vnnlib(folder, INDEX, eps="0.1", data="digits"))
    list(verify(folder, **about))


def _attempt(what: Callable[[], object]) -> None:
    try:
        what()
    except PipelineError as error:
        judge(error)
