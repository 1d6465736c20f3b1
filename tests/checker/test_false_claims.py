"""No proof of a false claim is taken, whatever slopes, splits, multipliers and boxes it brings; some of a true one is."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.checker.graph import FileGraph
from pipeline.checker.proof import Checked, check
from tests.checker.small import Exact, drawn

RADIUS = 2.0


def radius_of_the_truth(content: bytes, x: float, label: int) -> float:
    """How far every point keeps the label, at most ``RADIUS``."""
    exact = Exact(content, x - RADIUS, x + RADIUS)
    output = exact.output
    margin = output[:, label] - np.delete(output, label, 1).max(1)
    broken = np.abs(exact.points - x)[margin <= 0]
    return float(broken.min(initial=RADIUS))


def tree(rng: np.random.Generator, neurons: int, depth: int) -> list[dict[int, int]]:
    """The leaves of a tree that is drawn: what each assumes of some neurons."""
    leaves: list[dict[int, int]] = [{}]
    for _ in range(depth):
        at = int(rng.integers(len(leaves)))
        free = [n for n in range(neurons) if n not in leaves[at]]
        parent, neuron = leaves.pop(at), int(rng.choice(free))
        leaves += [parent | {neuron: 1}, parent | {neuron: -1}]
    return leaves


def arrays(rng: np.random.Generator, graph: FileGraph, x: float, label: int) -> dict[str, np.ndarray]:
    """A proof of the right form, of anything."""
    sizes = [int(np.prod(graph.shapes[relu])) for relu in graph.relus]
    relu, at = (
        np.concatenate(part) for part in zip(*((np.full(n, k), np.arange(n)) for k, n in enumerate(sizes)), strict=True)
    )
    leaves = [(row, leaf) for row in {0, 1, 2} - {label} for leaf in tree(rng, len(relu), int(rng.integers(12)))]
    split = np.array([(i, n) for i, (_, leaf) in enumerate(leaves) for n in leaf]).reshape(-1, 2)
    ends = np.array([(k, e) for k, n in enumerate(sizes) for e in range(n) if rng.random() < 0.3]).reshape(-1, 2)
    slopes = rng.random((len(leaves) + len(ends), len(relu))).round(int(rng.integers(0, 3)))
    return {
        "x": np.float32([x]),
        "row": np.array([row for row, _ in leaves]),
        "alpha": slopes[: len(leaves)],
        "split": split,
        "sign": np.array([s for _, leaf in leaves for s in leaf.values()]),
        "beta": rng.exponential(0.3, len(split)) * (rng.random(len(split)) < 0.7),
        "relu": relu,
        "at": at,
        "box_at": ends,
        "box_sign": rng.choice([-1, 1], len(ends)),
        "box_alpha": slopes[len(leaves) :],
    }


def checked(
    folder: Path, content: bytes, proof: dict[str, np.ndarray], eps: str, label: int, **about: object
) -> Checked:
    buffer = io.BytesIO()
    np.savez(buffer, **proof)
    (folder / "0.npz").write_bytes(buffer.getvalue())
    entry = {"index": 0, "label": label, "eps": eps, "tighten": bool(about.pop("tighten", False))}
    told = {
        "format": 1,
        "model_sha256": hashlib.sha256(content).hexdigest(),
        "arithmetic": "real",
        "range": [-4.0, 4.0],
        "normalise": [],
        "samples": [entry | {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}],
    }
    (folder / "proofs.json").write_text(json.dumps(told | about))
    (found,) = check(content, folder)
    return found


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(s, marks=pytest.mark.slow) for s in range(12, 200))])
def test_no_proof_of_a_false_claim_is_taken(seed: int, tmp_path: Path) -> None:
    """The box reaches to where another class is as large, and a millionth beyond."""
    rng, content = np.random.default_rng(seed), drawn(seed)
    graph, x = FileGraph(content), float(np.float32(rng.uniform(-1, 1)))
    label = int(Exact(content, x, x).output[0].argmax())
    reach = radius_of_the_truth(content, x, label)
    taken = 0
    for _ in range(6):
        about = {"tighten": bool(rng.integers(2)), "arithmetic": str(rng.choice(["real", "float32-any-order"]))}
        if reach < RADIUS:
            eps = str(Fraction(reach * (1 + 1e-6) + 1e-9) / 8)
            assert "margin" in checked(tmp_path, content, arrays(rng, graph, x, label), eps, label, **about).fault
        true = checked(tmp_path, content, arrays(rng, graph, x, label), str(Fraction(reach / 50) / 8), label, **about)
        taken += not true.fault
    assert taken > 0


def test_what_a_stranger_may_send_ends_in_a_sentence(tmp_path: Path) -> None:
    rng, content = np.random.default_rng(0), drawn(0)
    label = int(Exact(content, 0, 0).output[0].argmax())
    proof = arrays(rng, FileGraph(content), 0.0, label)
    assert checked(tmp_path, content, proof, "1/100000", label).fault == ""
    for eps in ("1e-99999999", "1/0", "nan", "-1/8", "9" * 100, "\N{SUPERSCRIPT TWO}"):
        assert checked(tmp_path, content, proof, eps, label).fault
    for change in (
        {"alpha": proof["alpha"].astype(object)},
        {"x": np.zeros(2, np.float32)},
        {"row": proof["row"] + 0.5},
    ):
        odd = checked(tmp_path, content, proof | change, "1/100000", label)
        assert odd.fault or "row" in change  # whole numbers are what is left of it, and these are checked
    for told in ({"range": [4.0, -4.0]}, {"range": [float("nan"), 1.0]}, {"model_sha256": "0" * 64}):
        assert checked(tmp_path, content, proof, "1/100000", label, **told).fault
    with zipfile.ZipFile(tmp_path / "0.npz", "w") as file:
        file.writestr("x.npy", b"no array")
    told = json.loads((tmp_path / "proofs.json").read_text())
    told["model_sha256"] = hashlib.sha256(content).hexdigest()
    told["samples"][0]["sha256"] = hashlib.sha256((tmp_path / "0.npz").read_bytes()).hexdigest()
    (tmp_path / "proofs.json").write_text(json.dumps(told))
    assert [one.fault != "" for one in check(content, tmp_path)] == [True]
    (tmp_path / "0.npz").unlink()
    assert [one.fault != "" for one in check(content, tmp_path)] == [True]
