"""An Einsum that is one MatMul is read as that, whatever the order of its labels; any other is refused by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline import rules
from pipeline.errors import InputRejected
from tests.onnx.files import load, model, node, weights
from tests.onnx.files import session as file_session

SIZES = {"i": 3, "j": 4, "k": 5, "h": 2}


def written(equation: str, path: Path, *, constant: int | None = None) -> Path:
    """An Einsum of two Reshapes of ``x``, or of one and a constant."""
    operands, nodes, constants = equation.replace(" ", "").split("->")[0].split(","), [], {}
    for place, labels in enumerate(operands):
        shape = [SIZES.get(label, 1) for label in labels]
        if place == constant:
            constants[f"o{place}"] = weights(*shape, seed=place)
            continue
        size = int(np.prod([s for s, label in zip(shape, labels, strict=True) if label != "b"]))
        constants |= {f"w{place}": weights(7, size, seed=place), f"s{place}": np.array([-1, *shape[1:]], np.int64)}
        nodes += [node("MatMul", ["x", f"w{place}"], [f"m{place}"]), node("Relu", [f"m{place}"], [f"r{place}"])]
        nodes.append(node("Reshape", [f"r{place}", f"s{place}"], [f"o{place}"]))
    nodes.append(node("Einsum", [f"o{i}" for i in range(len(operands))], ["y"], name="product", equation=equation))
    onnx.save(model(nodes, ["N", 7], constants), path)
    return path


@pytest.mark.parametrize(
    ("equation", "constant"),
    [
        ("bij,bjk->bik", None),
        ("bij,bkj->bki", None),
        ("bhij,bhkj->bhik", None),
        ("bihj,bkhj->bhik", None),
        ("bhik,bkhj->bihj", None),
        ("bhij,bhjk->bikh", None),
        ("bij, jk -> bik", 1),
        ("bij,kj->bki", 1),
        ("kj,bihj->bihk", 0),
    ],
)
def test_a_product(equation: str, constant: int | None, tmp_path: Path) -> None:
    path = written(equation, tmp_path / "model.onnx", constant=constant)
    imported = load(path)
    assert imported.parity.holds
    rules.require(imported.network)
    x = weights(5, 7, seed=9)
    want = file_session(path)(x)[0]
    assert np.allclose(imported.network(torch.from_numpy(x)).detach().numpy(), want, rtol=1e-4, atol=1e-5)
    trained = {weight.initializer for weight in imported.network.provenance.weights.values()}
    assert constant is None or f"o{constant}" in trained


@pytest.mark.parametrize("equation", ["bii,bij->bij", "bij,bjk->bi", "bij,bij->bij", "bijk,bjk->bi", "bi,bj->bij"])
def test_what_is_no_product_is_refused(equation: str, tmp_path: Path) -> None:
    with pytest.raises(InputRejected, match="Einsum"):
        load(written(equation, tmp_path / "model.onnx"))
