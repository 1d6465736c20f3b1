"""Scales from 2^-120 to 2^120 before, in and behind layers: what ONNX Runtime makes of them stays inside the bounds.

At every level of optimisation, and where subnormal numbers are read and written as zero, which is a mode of a whole process.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.bounds import float32_sites
from pipeline.bounds.ibp import IntervalWalk
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.errors import InputRejected
from pipeline.onnx import importer, runtime
from pipeline.onnx.executed import optimised, unaccounted
from pipeline.onnx.passes.normalise import normalise
from pipeline.rules.batchnorm import BatchNormRule
from tests.onnx import files

node, F = files.node, np.float32
POWERS = (-120.0, -60.0, 60.0, 120.0)
SMALL = F(2.0**-130)


def scaled(power: float, sign: int = 1) -> np.ndarray:
    return np.asarray(sign * F(1.25) * F(2.0) ** F(power), F)


def graphs() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Each by its name: what is scaled, and by which powers of two."""
    matrix = np.asarray([[1.5, -0.75], [-1.25, 0.5]], F)
    for s, w in itertools.product(POWERS, (-100.0, 60.0)):
        sign, weight = (-1 if s > 0 else 1), matrix * F(2.0) ** F(w)
        held = {"s": scaled(s, sign), "back": scaled(-s), "w": weight, "b": weight[0], "one": F(0.5)}
        yield (
            f"before {s} {w}",
            files.model(
                [
                    node("Mul", ["x", "back"], ["a"]),
                    node("Relu", ["a"], ["r"]),
                    node("Mul", ["s", "r"], ["t"]),
                    node("MatMul", ["t", "w"], ["y"]),
                ],
                ["n", 2],
                held,
            ),
        )
        yield (
            f"divided {s} {w}",
            files.model(
                [node("Mul", ["x", "s"], ["a"]), node("Div", ["a", "s"], ["t"]), node("MatMul", ["t", "w"], ["y"])],
                ["n", 2],
                held,
            ),
        )
        yield (
            f"behind {s} {w}",
            files.model(
                [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "s"], ["m"]), node("Mul", ["m", "back"], ["y"])],
                ["n", 2],
                held,
            ),
        )
        held["zeroed"], held["over"] = SMALL, F(1.25 * 2.0**126)
        for name, op, factor in (("zeroed", "Mul", "zeroed"), ("zeroed divisor", "Div", "over")):
            read = {"w": held["w"], factor: held[factor], "far": scaled(120.0)}
            yield (
                f"{name} {s} {w}",
                files.model(
                    [
                        node("MatMul", ["x", "w"], ["h"]),
                        node(op, ["h", factor], ["m"]),
                        node("Mul", ["m", "far"], ["y"]),
                    ],
                    ["n", 2],
                    read,
                ),
            )
        yield (
            f"alpha {s} {w}",
            files.model(
                [
                    node("Gemm", ["x", "w", "b"], ["h"], alpha=float(held["s"]), beta=float(held["back"])),
                    node("Mul", ["h", "back"], ["y"]),
                ],
                ["n", 2],
                held,
            ),
        )
        kernel = {"k": weight.reshape(2, 2, 1, 1), "c": np.asarray([s, -s], F).reshape(2, 1, 1)}
        kernel["c"] = F(2.0) ** kernel["c"]
        yield (
            f"folded {s} {w}",
            files.model([node("Conv", ["x", "k"], ["h"]), node("Mul", ["h", "c"], ["y"])], ["n", 2, 1, 3], kernel),
        )
        norm = {
            "g": np.asarray([SMALL, 2.0**-20], F),
            "t": F([0.5, -0.5]),
            "m": F([1.0, -2.0]),
            "v": F([2.0**-60, 1.0]),
        }
        yield (
            f"norm {s} {w}",
            files.model(
                [
                    node("Conv", ["x", "k"], ["h"]),
                    node("BatchNormalization", ["h", "g", "t", "m", "v"], ["d"], epsilon=1e-20),
                    node("Mul", ["d", "c"], ["y"]),
                ],
                ["n", 2, 1, 3],
                kernel | norm,
            ),
        )
        yield (
            f"norm alone {s} {w}",
            files.model(
                [
                    node("Relu", ["x"], ["r"]),
                    node("BatchNormalization", ["r", "g", "t", "m", "v"], ["y"], epsilon=1e-20),
                ],
                ["n", 2, 1, 3],
                norm,
            ),
        )
        yield (
            f"slope {s} {w}",
            files.model(
                [node("LeakyRelu", ["x"], ["a"], alpha=float(SMALL)), node("Mul", ["a", "s"], ["y"])], ["n", 2], held
            ),
        )


GRAPHS = dict(graphs())


def points(made: onnx.ModelProto, count: int = 48) -> np.ndarray:
    """Of every size that float32 has."""
    shape = [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(0)
    size = 2.0 ** rng.choice([-128.0, -60.0, 0.0, 0.0, 60.0, 120.0], (count, *[1] * len(shape)))
    return (rng.standard_normal((count, *shape)) * size).astype(F)


def bounds(made: onnx.ModelProto, x: np.ndarray) -> Interval | None:
    """Of the file at each point, with no more than rounding around it; None for a refusal."""
    try:
        network = importer.convert(normalise(made), made).in_float64()
        point = torch.from_numpy(x).double()
        return IntervalWalk(network, Outward(deployed=True)).boxes([Interval(point, torch.zeros_like(point))])[-1]
    except InputRejected:
        return None


def outside(box: Interval, y: np.ndarray) -> int:
    """How many outputs lie beyond their bounds; where these are infinite, nothing is said."""
    excess = (torch.from_numpy(y).double() - box.center).abs() - box.radius
    told = torch.isfinite(box.radius) & torch.isfinite(box.center)
    return int(((excess > 0) | excess.isnan())[told].sum())


def accounted(made: onnx.ModelProto, level: runtime.Level) -> bool:
    return unaccounted(made, optimised(made.SerializeToString(), provider="cpu", level=level), ["y"]) is None


@dataclass(frozen=True)
class Tried:
    """A graph at its points: the bounds there, and the levels at which what is executed is accounted for."""

    name: str
    made: onnx.ModelProto
    x: np.ndarray
    box: Interval
    levels: tuple[runtime.Level, ...]

    def wrong(self) -> int:
        """Outputs outside, in this process."""
        content = self.made.SerializeToString()
        return sum(outside(self.box, runtime.session(content, level=level)(self.x)[0]) for level in self.levels)


def tried(*families: str) -> list[Tried]:
    found = []
    for name, made in GRAPHS.items():
        x = points(made)
        if name.startswith(families) and (box := bounds(made, x)) is not None:
            levels = tuple(level for level in runtime.LEVELS if accounted(made, level))
            found.append(Tried(name, made, x, box, levels))
    return found


@pytest.fixture(scope="module")
def everything() -> list[Tried]:
    return tried("")


def test_scales_of_any_size_stay_inside_at_every_level(everything):
    for one in everything:
        assert one.wrong() == 0, one.name
    assert sum(len(one.levels) for one in everything) > 2.5 * len(GRAPHS)
    assert sum(int(torch.isfinite(one.box.radius).sum()) for one in everything) > 2_500


def test_without_the_charge_for_moved_scales_outputs_leave_the_bounds(monkeypatch):
    monkeypatch.setattr(float32_sites._Chain, "after", lambda self, numbers: self)
    assert sum(one.wrong() for one in tried("before", "divided")) > 0


CHILD = """
import sys
import numpy as np
import onnxruntime as ort
folder, given = sys.argv[1], np.load(sys.argv[1] + "/given.npz")
results = {}
for key in given["keys"]:
    name, level = str(key).split("@")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = ort.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
    results[str(key)] = session.run(None, {"x": given[name]})[0]
np.savez(folder + "/results.npz", **results)
"""


def flushing(folder: Path, graphs: list[Tried]) -> Iterator[tuple[Tried, np.ndarray, np.ndarray]]:
    """Each graph, and its outputs with and without subnormal numbers, at each level."""
    keys = []
    for i, one in enumerate(graphs):
        onnx.save(one.made, folder / f"{i}.onnx")
        keys += [f"{i}@{runtime.OPTION[level]}" for level in one.levels]
    given = {str(i): one.x for i, one in enumerate(graphs)}
    np.savez(folder / "given.npz", keys=np.asarray(keys), **given)
    subprocess.run([sys.executable, "-c", CHILD, str(folder)], check=True, timeout=120)
    results = np.load(folder / "results.npz")
    for i, one in enumerate(graphs):
        for level in one.levels:
            usual = runtime.session(one.made.SerializeToString(), level=level)(one.x)[0]
            yield one, results[f"{i}@{runtime.OPTION[level]}"], usual


def test_subnormal_numbers_may_be_zero(everything, tmp_path):
    flushed = 0
    for one, y, usual in flushing(tmp_path, everything):
        assert outside(one.box, y) == 0, one.name
        flushed += int((y != usual).sum())
    assert flushed > 0, "nothing was flushed: the test would not notice what that costs"


def test_without_the_charge_for_subnormal_parameters_outputs_leave_the_bounds(monkeypatch, tmp_path):
    monkeypatch.setattr(BatchNormRule, "flush", lambda *_: 0.0)
    assert sum(outside(one.box, y) for one, y, _ in flushing(tmp_path, tried("norm"))) > 0


def without_subnormals(made: onnx.ModelProto) -> onnx.ModelProto:
    """The file with its subnormal constants read as zero."""
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    for held in copy.graph.initializer:
        value = numpy_helper.to_array(held)
        zeroed = np.where(np.abs(value) < F(2.0**-126), F(0), value)
        held.CopyFrom(numpy_helper.from_array(np.asarray(zeroed, F), held.name))
    return copy


@pytest.mark.parametrize(
    ("family", "owner", "charge"), [("norm", BatchNormRule, "flush"), ("zeroed ", Outward, "_flushed")]
)
def test_a_scale_read_as_zero_is_charged_where_it_stands_and_not_in_the_layer_before_it(
    family: str, owner: type, charge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, whatever a runtime folds: of every such graph, the outputs of the file without subnormal numbers."""

    def found() -> list[int]:
        counts = []
        for one in tried(family):
            zeroed = without_subnormals(one.made)
            network = importer.convert(normalise(zeroed), zeroed).in_float64()
            with torch.no_grad():
                counts.append(outside(one.box, network(torch.from_numpy(one.x).double()).numpy()))
        return counts

    assert sum(found()) == 0
    monkeypatch.setattr(owner, charge, lambda *_: 0.0)
    assert sum(found()) > 0


@pytest.mark.parametrize("constant", [SMALL, F(2.0**-126)])
def test_a_subnormal_divisor_bounds_nothing(constant: np.float32):
    made = files.model([node("Div", ["x", "d"], ["y"])], ["n", 2], {"d": np.asarray(constant, F)})
    box = bounds(made, np.asarray([[2.0**-60, -(2.0**-80)]], F))
    assert box is not None
    assert bool(torch.isfinite(box.radius).all()) == (constant != SMALL)
