"""``pipeline inspect``: what a user learns of a file before anything is run."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from tests.onnx import files


def test_cost_is_counted_on_the_graph(pipeline):
    _, out, _ = pipeline("inspect", "model.onnx", "--format", "json")
    cost = json.loads(out)["cost"]
    convolutions = 16 * 8 * 8 * 9 + 32 * 4 * 4 * 16 * 16
    assert cost["multiply_adds"] == convolutions + 512 * 64 + 64 * 10
    assert cost["parameters"] == 41_866
    values = 64 + 2 * 16 * 64 + 2 * 32 * 16 + 512 + 2 * 64 + 10
    assert cost["values"] == values
    assert cost["train_bytes"] == 3 * 4 * 128 * values


def test_the_page_says_what_would_be_inserted_and_that_nothing_normalises(pipeline):
    code, out, _ = pipeline("inspect", "model.onnx")
    assert code == 0
    for said in ("none in the file", "--mean and --std", "multiply-adds", "MiB", "insert 3 BatchNorms"):
        assert said in out


def test_preprocessing_in_the_graph_is_shown_with_its_constants(pipeline, here):
    mean = numpy_helper.from_array(np.float32([0.5, 0.25, 0.125]).reshape(1, 3, 1, 1), "mean")
    std = numpy_helper.from_array(np.float32(0.2), "std")
    weight = numpy_helper.from_array(torch.randn(2, 3 * 4 * 4).numpy(), "w")
    nodes = [
        files.node("Sub", ["x", "mean"], ["centred"]),
        files.node("Div", ["centred", "std"], ["normal"]),
        files.node("Flatten", ["normal"], ["flat"]),
        files.node("Gemm", ["flat", "w"], ["y"], transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1, 3, 4, 4])], [value("y", 1, [1, 2])], [mean, std, weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"pipeline.preprocessing": '{"range": [0, 1]}'})
    onnx.save(model, here / "pre.onnx")
    code, out, err = pipeline("inspect", "pre.onnx")
    assert code == 0, err
    assert "Sub" in out
    assert "0.5, 0.25, 0.125" in out
    assert "by its metadata" in out
    (scaled,) = [line for line in out.splitlines() if "pixels" in line and ("Div" in line or "Mul" in line)]
    assert math.isclose(float(scaled.rpartition("with ")[2]), 0.2, rel_tol=1e-6)


def test_inspect_says_what_certify_says(pipeline, here):
    """One source: the page names the refusal of the default mode word for word, and none where there is none."""
    for name in ("Relu", "HardSwish", "Softsign", "Softmax"):
        nodes = [
            files.node("Gemm", ["x", "w"], ["h"], transB=1),
            files.node(name, ["h"], ["a"]),
            files.node("Gemm", ["a", "v"], ["y"], transB=1),
        ]
        held = {"w": files.weights(5, 6), "v": files.weights(3, 5)}
        onnx.save(files.model(nodes, ["batch", 6], held), here / f"{name}.onnx")
        np.savez(here / "flat.npz", x=np.random.default_rng(0).random((4, 6), np.float32), y=np.zeros(4, np.int64))
        code, page, _ = pipeline("inspect", f"{name}.onnx", "--format", "json")
        assert code == 0
        said = json.loads(page)["refused"]
        code, _, err = pipeline("certify", f"{name}.onnx", "--data", "flat.npz", "--eps", "1/100", "--no-attack")
        assert (said is None) == (code == 0), err
        assert said is None or " ".join(said.split()) in " ".join(err.split())
