"""Classifiers with one output, and files that are none: what each command says of them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from pipeline.results import read
from pipeline.vnnlib import parse
from tests.onnx import files

FAST = ("--eps", "1/1000", "--method", "ibp")


def one_number(path, *tail: onnx.NodeProto, outputs: int = 1) -> np.ndarray:
    """A small net from 12 pixels to ``z``, and ``tail`` from there to ``y``; its logits on the data of ``half``."""
    held = {"a": files.weights(12, 16), "c": files.weights(16, outputs, seed=2)}
    nodes = [
        files.node("Gemm", ["x", "a"], ["h"]),
        files.node("Relu", ["h"], ["r"]),
        files.node("Gemm", ["r", "c"], ["z"]),
    ]
    nodes += tail
    nodes[-1].output[0] = "y"
    onnx.save(files.model(nodes, ["n", 12], held), path)
    return np.maximum(pixels() @ held["a"], 0) @ held["c"]


def pixels() -> np.ndarray:
    return np.random.default_rng(4).random((80, 12), np.float32)


SIGMOID = files.node("Sigmoid", ["z"], ["y"])


@pytest.fixture(params=["logit", "probability"])
def half(request, here):
    """A file whose threshold is the median of what it gives; (its name, the threshold)."""
    tail = (SIGMOID,) if request.param == "probability" else ()
    given = one_number(here / "one.onnx", *tail).reshape(-1)
    if tail:
        given = 1 / (1 + np.exp(-given))
    threshold = float(np.median(given))
    np.savez(here / "data.npz", x=pixels(), y=(given > threshold).astype(np.int64))
    return f"{threshold:.6f}"


def test_every_command_knows_the_threshold(pipeline, here, half):
    flags = ("--data", "data.npz", "--threshold", half, *FAST)
    code, out, err = pipeline("certify", "one.onnx", *flags)
    assert code == 0, err
    assert "label 1 where it is above" in " ".join(err.split())
    result = read(here / "one.report").result
    assert result.model.output.threshold == pytest.approx(float(half), rel=1e-6)
    assert (result.model.output.classes, result.levels[0].natural.exact) == (2, 1)
    assert result.levels[0].certified.k > 40
    assert {row.label for row in result.per_class if row.certified} == {0, 1}
    code, out, _ = pipeline("verify", "one.report", "--model", "one.onnx", "--data", "data.npz", "--recheck", "20")
    assert code == 0, out
    assert "proved" in out or "certified again" in out
    index = result.levels[0].edge[0].index
    code, text, err = pipeline("export-vnnlib", "one.report", "--index", index, "--data", "data.npz")
    assert code == 0, err
    assert "Y_1" not in text
    parse(text)
    (here / "edge.vnnlib").write_text(text)
    strongest = max(result.levels[0].edge, key=lambda edge: edge.margin)
    text = pipeline("export-vnnlib", "one.report", "--index", strongest.index, "--data", "data.npz")[1]
    (here / "edge.vnnlib").write_text(text)
    code, out, err = pipeline("certify", "one.onnx", "--property", "edge.vnnlib")
    assert code in (0, 3), out + err  # float32-any-order asks for a measured Sigmoid where it stands in a property


def test_labels_zero_and_one_need_no_flag(pipeline, here):
    z = one_number(here / "p.onnx", SIGMOID).reshape(-1)
    np.savez(here / "data.npz", x=pixels(), y=(z > 0).astype(np.int64))
    code, _, err = pipeline("certify", "p.onnx", "--data", "data.npz", *FAST)
    assert code == 0, err
    level = read(here / "p.report").result.levels[0]
    assert (level.natural.k, level.natural.n) == (80, 80)
    code, page, _ = pipeline("inspect", "p.onnx")
    assert code == 0
    assert "label 1 where it is above 0.5" in " ".join(page.split())


def test_a_lone_probability_is_retrained_into_its_own_file(pipeline, here):
    z = one_number(here / "p.onnx", SIGMOID).reshape(-1)
    x, y = np.concatenate([pixels()] * 4), np.tile((z > np.median(z)).astype(np.int64), 4)
    np.savez(here / "data.npz", x_train=x, y_train=y, x_test=x[:80], y_test=y[:80])
    flags = ("--eps", "1/200", "--epochs", "3", "--batch-size", "64", "--init", "keep")
    code, _, err = pipeline("retrain", "p.onnx", "--data", "data.npz", *flags)
    assert code == 0, err
    written = onnx.load(here / "p.certified.onnx")
    assert [n.op_type for n in written.graph.node] == ["Gemm", "Relu", "Gemm", "Sigmoid"]
    result = read(here / "p.certified.report").result
    assert result.model.output.kind == "probability"
    assert result.training.after.natural.k >= 40


@pytest.mark.parametrize(
    ("tail", "labels", "flags", "code", "says"),
    [
        ((SIGMOID,), (-1, 1), (), 3, "Store 0 in place of -1"),
        ((SIGMOID,), (0, 1), ("--threshold", "1"), 2, "--threshold"),
        ((SIGMOID,), (0, 1), ("--threshold", "0.3", "--arithmetic", "real"), 2, "float32-any-order"),
        ((files.node("HardSigmoid", ["z"], ["y"]),), (0, 1), (), 2, "Say --threshold 0.5 if these are probabilities"),
        ((files.node("HardSigmoid", ["z"], ["y"]),), (0, 1), ("--threshold", "0.5"), 0, ""),
    ],
)
def test_what_may_be_meant_otherwise_is_asked(pipeline, here, tail, labels, flags, code, says):
    one_number(here / "one.onnx", *tail)
    np.savez(here / "data.npz", x=pixels(), y=np.resize(labels, 80))
    got, _, err = pipeline("certify", "one.onnx", "--data", "data.npz", *FAST, "--no-attack", *flags)
    assert got == code, err
    assert says in " ".join(err.split())


def test_several_classes_have_no_threshold(pipeline, here):
    one_number(here / "two.onnx", outputs=2)
    np.savez(here / "data.npz", x=pixels(), y=np.zeros(80, np.int64))
    code, _, err = pipeline("certify", "two.onnx", "--data", "data.npz", *FAST, "--threshold", "0.5")
    assert code == 2
    assert "Leave it out" in err
    assert pipeline("certify", "two.onnx", "--data", "data.npz", *FAST, "--no-attack")[0] == 0


def places(path, size: int, *tail: onnx.NodeProto) -> None:
    """Three classes at each of ``size x size`` places."""
    nodes = [files.node("Conv", ["x", "w"], ["y"]), *tail]
    onnx.save(files.model(nodes, ["n", 1, size + 1, size + 1], {"w": files.weights(3, 1, 2, 2)}), path)


@pytest.mark.parametrize("command", ["certify", "retrain", "inspect"])
def test_a_segmenter_is_no_classifier(pipeline, here, command):
    places(here / "seg.onnx", 4)
    np.savez(here / "data.npz", x=np.zeros((4, 1, 5, 5), np.float32), y=np.arange(4) % 3)
    flags = () if command == "inspect" else ("--data", "data.npz", "--eps", "1/100")
    code, out, err = pipeline(command, "seg.onnx", *flags)
    assert code == 3, out
    told = " ".join((out + err).split())
    assert "n x 3 x 4 x 4" in told
    assert "--property" in told
    if command == "inspect":
        code, out, _ = pipeline(command, "seg.onnx", "--format", "json")
        assert code == 3
        assert "n x 3 x 4 x 4" in json.loads(out)["refused"]


def test_one_place_is_a_classifier(pipeline, here):
    places(here / "one.onnx", 1)
    np.savez(here / "data.npz", x=np.random.default_rng(0).random((9, 1, 2, 2), np.float32), y=np.arange(9) % 3)
    code, _, err = pipeline("certify", "one.onnx", "--data", "data.npz", *FAST, "--no-attack")
    assert code == 0, err
    assert pipeline("inspect", "one.onnx")[0] == 0
