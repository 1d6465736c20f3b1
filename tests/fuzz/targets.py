"""Everything that reads a stranger's file, each with valid files to begin from and ways to make them hostile.

The property: it succeeds, or raises a PipelineError with a sentence that is not a fault of ours, within ``SECONDS`` and
``MIB``.
"""

from __future__ import annotations

import hashlib
import io
import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

import pipeline.data
from pipeline.api import certify
from pipeline.data.source import load as load_data
from pipeline.errors import PipelineError
from pipeline.graph.importer import load as load_model
from pipeline.render import html
from pipeline.render.intoto import statement
from pipeline.render.junit import junit
from pipeline.render.markdown import markdown
from pipeline.report.canonical import digest
from pipeline.report.write import read as read_report
from pipeline.review import comparison
from pipeline.settings import settle
from pipeline.vnnlib import parser, source
from pipeline.workflow.verification import verify
from tests.fuzz.graphs import graph_of
from tests.fuzz.moves import MOVES
from tests.fuzz.mutations import Mutator, flipped, of_arrays, of_json, of_model, of_text

FILES = ("report.json", "samples.npz", "counterexamples.npz")
SECONDS, MIB = 30, 1024
"""Of processor time, and of memory beyond what the process had."""


class TooSlow(BaseException):
    """Raised by the clock into whatever is running; no handler of ours takes it for an error of the file."""


@dataclass(frozen=True)
class Target:
    """Reads ``content`` in an empty folder."""

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], Sequence[bytes]]
    mutators: tuple[Mutator, ...]


def _model(content: bytes, folder: Path) -> None:
    path = folder / "m.onnx"
    path.write_bytes(content)
    load_model(path)


@cache
def _models() -> list[bytes]:
    shapes = ((6,), (3, 4), (2, 5, 5))
    made = []
    for i, name in enumerate(sorted(MOVES)):
        recipe = [("gemm", 0, i), (name, 0, i), ("relu", 0, i), (name, 0, i + 1), ("residual", 0, i)]
        made.append(graph_of(shapes[i % 3], recipe, i, "small", False, "batch").model.SerializeToString())
    return made


def _vnnlib(content: bytes, folder: Path) -> None:
    path = folder / "p.vnnlib"
    path.write_bytes(content)
    parser.parse(source.read(path))


def _vnnlibs() -> list[bytes]:
    declared = "\n".join(f"(declare-const {n} Real)" for n in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))
    box = " ".join(f"(assert ( <= X_{i} 0.5 )) (assert ( >= X_{i} -1e-3 ))" for i in range(2))
    return [
        f"; a comment\n{declared}\n{box} (assert ( <= Y_0 Y_1 ))".encode(),
        f"{declared} {box} (assert ( or ( and ( >= Y_1 Y_0 ) ) ( and ( >= Y_2 Y_0 ) ( <= Y_1 3.5 ) ) ) )".encode(),
        f"{declared} {box} (assert ( >= ( + ( * 2.0 Y_0 ) ( - Y_1 ) 1/3 ) ( - 1.0 ) ))".encode(),
    ]


def _toml(content: bytes, folder: Path) -> None:
    (folder / "pipeline.toml").write_bytes(content)
    settle(folder / "m.onnx", {}, {})


def _tomls() -> list[bytes]:
    return [
        b"""data = "npz:x.npz"
eps = [ "8/255" , "0.1" ]
mean = [ 0.5 , 0.5 ]
std = [ 0.2 , 0.2 ]
range = [ 0 , 255 ]
fail_under = [ "certified@8/255=0.30" , "natural=0.4" ]
time_budget = "10m"
memory_budget = "4GB"
method = "crown"
max_samples = 20
""",
        b"""eps = "8/255"
norm = "l2"
[ train ]
recipe = "fast"
epochs = 3
""",
        b"eps = 0.1\nbaseline = 'a.report'\nmax_regression = [ 'certified=0.01' ]\nsignificance = 0.05\n",
    ]


def _npz(content: bytes, folder: Path) -> None:
    (folder / "d.npz").write_bytes(content)
    load_data(f"npz:{folder / 'd.npz'}", part=None)


def _npzs() -> list[bytes]:
    rng = np.random.default_rng(0)
    x, y = rng.random((6, 1, 4, 4), np.float32), np.arange(6) % 3
    grey = (x[:, 0] * 255).astype(np.uint8)
    made = []
    for arrays in ({"x": x, "y": y}, {"x_train": grey, "y_train": y, "x_test": grey, "y_test": y.astype(np.uint8)}):
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, **arrays)
            made.append(file.getvalue())
    return made


def _image(content: bytes, folder: Path) -> None:
    (folder / "cats").mkdir(exist_ok=True)
    (folder / "cats" / "a.png").write_bytes(content)
    load_data(f"dir:{folder}", part=None)


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    made = []
    for how in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, how)
        made.append(file.getvalue())
    return made


@cache
def _report_files() -> dict[str, bytes]:
    """The files of a report that ``verify`` finds in order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits = Path(pipeline.data.__file__).parent / "digits.onnx"
        certify(digits, "digits", eps=("0.02", "0.1"), report=folder, max_samples=16, method="ibp")
        return {f.name: f.read_bytes() for f in folder.iterdir() if f.name in FILES}


def _sealed(report: bytes, **files: bytes) -> bytes:
    """The report with the digests that its forger would put into it, as far as it is still one."""
    try:
        raw = json.loads(report)
        for key, content in files.items():
            raw["result"][key]["sha256"] = hashlib.sha256(content).hexdigest()
        raw["result_sha256"] = digest(raw.get("result"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return report
    return json.dumps(raw).encode("utf-8", "replace")


def _read_folder(folder: Path, files: dict[str, bytes]) -> None:
    """All that reads a report reads this one; each may refuse it."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    honest = folder / "honest"
    honest.mkdir(exist_ok=True)
    for name, content in _report_files().items():
        (honest / name).write_bytes(content)

    refusals: list[PipelineError] = []

    def attempt(what: Callable[[], object]) -> None:
        try:
            what()
        except PipelineError as error:
            refusals.append(error)

    def draw() -> None:
        report = read_report(folder)
        for rendering in (html.render, markdown, junit, statement):
            rendering(report)

    attempt(lambda: list(verify(folder)))
    attempt(lambda: comparison.compare(folder, honest))
    attempt(lambda: comparison.compare(honest, folder))
    attempt(draw)
    for error in refusals:
        _judge(error)


def _report(content: bytes, folder: Path) -> None:
    _read_folder(folder, {**_report_files(), "report.json": _sealed(content)})


def _beside(key: str) -> Callable[[bytes, Path], None]:
    """A file beside the report, with the digest of what it became."""

    def read(content: bytes, folder: Path) -> None:
        files = {**_report_files(), f"{key}.npz": content}
        _read_folder(folder, {**files, "report.json": _sealed(files["report.json"], **{key: content})})

    return read


TARGETS: dict[str, Target] = {
    "model": Target(_model, _models, (flipped, of_model, of_model, of_model)),
    "vnnlib": Target(_vnnlib, _vnnlibs, (flipped, of_text, of_text)),
    "toml": Target(_toml, _tomls, (flipped, of_text, of_text)),
    "npz": Target(_npz, _npzs, (flipped, of_arrays)),
    "image": Target(_image, _images, (flipped,)),
    "report": Target(_report, lambda: [_report_files()["report.json"]], (flipped, of_json, of_json, of_json)),
    "samples": Target(_beside("samples"), lambda: [_report_files()["samples.npz"]], (flipped, of_arrays, of_arrays)),
    "counterexamples": Target(
        _beside("counterexamples"), lambda: [_report_files()["counterexamples.npz"]], (flipped, of_arrays, of_arrays)
    ),
}


def _judge(error: PipelineError) -> None:
    """A refusal is a sentence about the file, and no fault of ours."""
    assert error.exit_code != PipelineError.exit_code, f"a fault of ours: {error!r}"
    assert len(str(error)) > 20, f"no sentence: {error!r}"
    assert len(str(error)) < 4000, "a sentence that nobody reads to its end"
    assert str(error).isprintable() or "\n" in str(error), f"control characters: {error!r}"


def execute(name: str, content: bytes) -> bool:
    """One execution; whether the file was taken. Raises what breaks the property."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder, _clock():
        try:
            TARGETS[name].read(content, Path(folder))
            taken = True
        except PipelineError as error:
            _judge(error)
            taken = False
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown <= MIB, f"{grown} MiB of memory"
    return taken


@contextmanager
def _clock() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooSlow(f"more than {SECONDS} s of processor time")

    old = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def mutant(name: str, rng: Random) -> bytes:
    """A file made from a valid one."""
    target = TARGETS[name]
    content = rng.choice(target.seeds())
    for _ in range(rng.choice((1, 1, 2))):
        try:
            content = rng.choice(target.mutators)(content, rng)
        except Exception:  # too broken for another change of its structure
            content = flipped(content, rng)
    return content


def run(seconds: float, seed: int, names: Sequence[str] = tuple(TARGETS)) -> bool:
    """Each target for its share of the time; findings are printed and kept beside the temporary files. Whether none was."""
    clean = True
    for name in names:
        rng, end = Random(f"{name} {seed}"), time.monotonic() + seconds / len(names)
        executions = taken = 0
        kept: dict[str, Path] = {}
        while time.monotonic() < end:
            content = mutant(name, rng)
            executions += 1
            try:
                taken += execute(name, content)
            except (Exception, TooSlow) as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
                if where not in kept:
                    kept[where] = (
                        Path(tempfile.gettempdir()) / f"found-{name}-{hashlib.sha256(content).hexdigest()[:8]}"
                    )
                    kept[where].write_bytes(content)
                    print(f"{name}: {where}: {str(error)[:300]}\n  kept in {kept[where]}", file=sys.stderr)
        print(f"{name}: {executions} executions, {taken} files taken, {len(kept)} findings")
        clean &= not kept
    return clean
