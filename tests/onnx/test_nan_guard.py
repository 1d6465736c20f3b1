"""Guards against NaN, as exports of attention have them behind its Softmax: removed where bounds say that nothing is NaN."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline.bounds.margins import MarginBounds
from pipeline.core.outward import Outward
from pipeline.core.threat import LinfBall
from pipeline.errors import InputRejected
from tests.onnx import files
from tests.onnx.files import node

GUARDED = [node("IsNaN", ["s"], ["q"]), node("Where", ["q", "zero", "s"], ["r"])]
TURNED = [node("IsNaN", ["s"], ["q"]), node("Not", ["q"], ["p"]), node("Where", ["p", "s", "zero"], ["r"])]
OTHER = [node("IsNaN", ["s"], ["q"]), node("Where", ["q", "s", "zero"], ["r"])]
OF_ANOTHER = [node("IsNaN", ["s"], ["q"]), node("Where", ["q", "zero", "a"], ["r"])]
BROADCAST = [
    node("IsNaN", ["s"], ["q"]),
    node("Where", ["q", "wide", "s"], ["u"]),
    node("ReduceSum", ["u", "axis"], ["r"], keepdims=0),
]


def written(folder: Path, guard: list[onnx.NodeProto], scale: float = 1.0) -> Path:
    """A Softmax of scaled sums, guarded; logits of which the first is by far the largest."""
    nodes = [
        *(node("MatMul", ["x", "v"], ["m"]), node("Mul", ["m", "scale"], ["a"]), node("Softmax", ["a"], ["s"])),
        *(*guard, node("MatMul", ["r", "w"], ["t"]), node("Add", ["t", "b"], ["y"])),
    ]
    constants = {
        "v": np.full((4, 4), 10, np.float32),
        "scale": np.float32(scale),
        "zero": np.float32(0),
        "wide": np.zeros((2, 1, 4), np.float32),
        "axis": np.array([0]),
        "w": files.weights(4, 3),
        "b": np.array([9, 0, 0], np.float32),
    }
    read = {name for n in nodes for name in n.input}
    return files.saved(folder, files.model(nodes, ["n", 4], {k: v for k, v in constants.items() if k in read}))


@pytest.mark.parametrize("guard", [GUARDED, TURNED], ids=["guarded", "turned"])
def test_a_guard_is_removed_and_only_numbers_are_certified(guard, tmp_path):
    x = np.full((1, 4), 0.9, np.float32)
    for scale, overflows in ((1.0, False), (2e37, True)):
        path = written(tmp_path, guard, scale)
        network = files.load(path).network
        assert not any("Where" in type(m).__name__ for m in network.graph.modules())
        box = LinfBall(Fraction(1, 100)).box(torch.from_numpy(x).double())
        found = MarginBounds(
            network.in_float64(), Outward(deployed=True, kernels={"Softmax": (1e-6, 1e-6)}), method="ibp"
        ).least(box, torch.tensor([0]))
        (said,) = files.session(path)(x)
        assert (found.min() > 0) != overflows
        assert (said[0, 0] == 9) == overflows, "the guard gives zero"


@pytest.mark.parametrize("guard", [OTHER, OF_ANOTHER, BROADCAST], ids=["other", "of another", "broadcast"])
def test_another_choice_is_refused_by_name(guard, tmp_path):
    with pytest.raises(InputRejected, match="IsNaN"):
        files.load(written(tmp_path, guard))


@pytest.mark.parametrize("function", ["Sigmoid", "Tanh", "Relu", "Sign", "Softmax", "HardSigmoid"])
def test_no_function_with_a_range_of_its_own_hides_what_is_no_number(function, tmp_path):
    """Infinity less infinity, squeezed, and a guard that gives a rival's logit a hundred."""
    nodes = [
        *(node("Mul", ["x", "big"], ["p"]), node("Mul", ["p", "ten"], ["i"]), node("Mul", ["i", "one"], ["j"])),
        *(node("Sub", ["i", "j"], ["n"]), node(function, ["n"], ["s"]), node("IsNaN", ["s"], ["q"])),
        *(node("Where", ["q", "much", "s"], ["r"]), node("MatMul", ["r", "w"], ["t"]), node("Sub", ["b", "t"], ["y"])),
    ]
    numbers = {"big": 1e38, "ten": 10, "one": 1, "much": 100}
    constants = {k: np.float32(v) for k, v in numbers.items()} | {
        "w": np.eye(4, 3, dtype=np.float32),
        "b": np.array([9, 0, 0], np.float32),
    }
    network = files.load(files.saved(tmp_path, files.model(nodes, ["n", 4], constants)), level="off").network
    box = LinfBall(Fraction(1, 100)).box(torch.full((1, 4), 0.9, dtype=torch.float64))
    account = Outward(deployed=True, kernels=dict.fromkeys(("Sigmoid", "Tanh", "Softmax"), (1e-6, 1e-6)))
    for method in ("ibp", "crown"):
        found = MarginBounds(network.in_float64(), account, method=method).least(box, torch.tensor([0]))
        assert not (found > 0).any()
