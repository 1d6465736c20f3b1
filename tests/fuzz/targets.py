"""Everything that reads a stranger's file, each with valid files to begin from and ways to make them hostile.

The property: it succeeds, or raises a PipelineError with a sentence that is not a fault of ours, within ``SECONDS`` and
``MIB``.
"""

from __future__ import annotations

import hashlib
import io
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

from pipeline.data.source import load as load_data
from pipeline.errors import PipelineError
from pipeline.settings import settle
from pipeline.vnnlib import parse, source
from tests.fuzz import reports
from tests.fuzz.graphs import graph_of
from tests.fuzz.judge import judge
from tests.fuzz.moves import MOVES
from tests.fuzz.mutations import Mutator, flipped, of_archive, of_arrays, of_json, of_model, of_text
from tests.fuzz.reports import cases
from tests.onnx.files import load as load_model

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
    parse(source.read(path))


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


TARGETS: dict[str, Target] = {
    "model": Target(_model, _models, (flipped, of_model, of_model, of_model)),
    "vnnlib": Target(_vnnlib, _vnnlibs, (flipped, of_text, of_text)),
    "toml": Target(_toml, _tomls, (flipped, of_text, of_text)),
    "npz": Target(_npz, _npzs, (flipped, of_archive, of_arrays)),
    "image": Target(_image, _images, (flipped,)),
    "report": Target(
        reports.read_report, lambda: [c.files["report.json"] for c in cases()], (flipped, of_json, of_json, of_json)
    ),
    "samples": Target(
        reports.read_samples, lambda: [cases()[0].files["samples.npz"]], (flipped, of_archive, of_arrays)
    ),
    "counterexamples": Target(
        reports.read_counterexamples,
        lambda: [cases()[0].files["counterexamples.npz"]],
        (flipped, of_archive, of_arrays),
    ),
}


def execute(name: str, content: bytes) -> bool:
    """One execution; whether the file was taken. Raises what breaks the property."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder, _clock():
        try:
            TARGETS[name].read(content, Path(folder))
            taken = True
        except PipelineError as error:
            judge(error)
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
