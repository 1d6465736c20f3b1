"""Graphs that move the batch aside, or fold it into another axis, are read batch-first, and compute what they computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

from pipeline import rules
from pipeline.errors import InputRejected
from tests.onnx.files import load, model, weights
from tests.onnx.files import session as file_session

CONSTANTS = {
    "w": weights(6, 8, seed=1),
    "wt": weights(8, 6, seed=2),
    "b": weights(8, seed=3),
    "tokens": weights(4, 1, 6, seed=4),
    "number": np.float32(0.7),
    "one": np.array(1, np.int64),
    "some": np.array([2, 0], np.int64),
    "zero": np.array([0], np.int64),
    "heads": np.array([4, -1, 3], np.int64),
    "whole": np.array([-1, 2, 4, 3], np.int64),
    "rows": np.array([-1, 6], np.int64),
    "tall": np.array([4, -1, 6], np.int64),
    "end": np.array([-1, 4, 8], np.int64),
    "over": np.array([4, -1, 8], np.int64),
    "scale": weights(6, seed=5) ** 2,
    "two": np.array([2], np.int64),
    "single": np.array([1], np.int64),
    "thirds": np.array([-1, 4, 3, 2], np.int64),
    "ends": np.array([-1, 1], np.int64),
    "beyond": np.array([-100, 100], np.int64),
    "turned": np.array([0, -1], np.int64),
    "steps": np.array([-2, 3], np.int64),
    "row": np.array([-1], np.int64),
    "last": np.array([-1], np.int64),
    "nought": np.array(0, np.int64),
    "length": np.array(24, np.int64),
    "places": np.array([[23, 0, 7]], np.int64),
}
ASIDE, BACK = "t = Transpose <perm = [1, 0, 2]> (x)", "y = Transpose <perm = [1, 0, 2]> (u)"
GRAPHS = {
    "a layer and an activation": f"{ASIDE} m = MatMul (t, w) a = Add (m, b) u = Relu (a) {BACK}",
    "a constant of each token": f"{ASIDE} u = Sub (tokens, t) {BACK}",
    "a number": f"{ASIDE} u = Mul (t, number) {BACK}",
    "two values": f"{ASIDE} r = Relu (t) s = Mul (t, number) u = Add (r, s) {BACK}",
    "normalised": f"{ASIDE} u = LayerNormalization <axis = -1> (t, scale) {BACK}",
    "softmax over tokens": f"{ASIDE} u = Softmax <axis = 0> (t) {BACK}",
    "one token": f"{ASIDE} y = Gather <axis = 0> (t, one)",
    "some tokens": f"{ASIDE} u = Gather <axis = 0> (t, some) {BACK}",
    "a part of the tokens": f"{ASIDE} u = Slice (t, zero, two, zero) {BACK}",
    "tokens from the end, and features": f"{ASIDE} u = Slice (t, ends, beyond, turned, steps) {BACK}",
    "one query, key and value of three": """
        q = Reshape (x, thirds) t = Transpose <perm = [2, 0, 1, 3]> (q) e = Slice (t, zero, single, zero) f = Squeeze (e, zero)
        h = Slice (t, single, two, zero) g = Squeeze (h, zero) y = Sub (f, g)
    """,
    "a mean of tokens": f"{ASIDE} y = ReduceMean <axes = [0], keepdims = 0> (t)",
    "a sum, its axis kept": f"{ASIDE} u = ReduceSum <keepdims = 1> (t, zero) {BACK}",
    "joined": f"{ASIDE} r = Relu (t) u = Concat <axis = 0> (t, r) {BACK}",
    "an axis that comes and goes": f"{ASIDE} s = Unsqueeze (t, zero) r = Relu (s) u = Squeeze (r, zero) {BACK}",
    "an axis in front": "s = Unsqueeze (x, zero) r = Relu (s) y = Squeeze (r, zero)",
    "the batch last": "t = Transpose <perm = [1, 2, 0]> (x) r = Relu (t) y = Transpose <perm = [2, 0, 1]> (r)",
    "there and back": f"{ASIDE} s = Transpose <perm = [1, 0, 2]> (t) y = Relu (s)",
    "rows of all samples": "t = Reshape (x, rows) g = Gemm <transB = 1> (t, wt) r = Relu (g) y = Reshape (r, end)",
    "rows, tokens first": f"{ASIDE} r = Reshape (t, rows) g = Gemm <transB = 1> (r, wt, b) s = Reshape (g, over) "
    "y = Transpose <perm = [1, 0, 2]> (s)",
    "heads beside the batch": f"""
        {ASIDE} q = Reshape (t, heads) k = Transpose <perm = [1, 0, 2]> (q) kt = Transpose <perm = [1, 2, 0]> (q)
        s = MatMul (k, kt) p = Softmax <axis = -1> (s) o = MatMul (p, k) f = Transpose <perm = [1, 0, 2]> (o)
        u = Reshape (f, tall) {BACK}
    """,
    "heads beside the batch, and out of it": f"""
        {ASIDE} q = Reshape (t, heads) k = Transpose <perm = [1, 0, 2]> (q) y = Reshape (k, whole)
    """,
    "entries of one row of all samples": """
        t = Reshape (x, row) n = Shape <start = 0, end = 1> (x) m = Squeeze (n) r = Range (nought, m, one) s = Mul (r, length)
        c = Unsqueeze (s, last) i = Add (c, places) y = Gather <axis = 0> (t, i)
    """,
}


def written(body: str, path: Path, batch: str | int = "N") -> Path:
    nodes = parser.parse_graph(f"g (float[1, 4, 6] x) => (float[1] y) {{ {body} }}").node
    read = {v for n in nodes for v in n.input}
    onnx.save(model(nodes, [batch, 4, 6], {n: a for n, a in CONSTANTS.items() if n in read}), path)
    return path


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_moves_the_batch_aside(name: str, batch: str | int, tmp_path: Path) -> None:
    path = written(GRAPHS[name], tmp_path / "model.onnx", batch)
    imported = load(path)
    assert imported.parity.holds
    rules.require(imported.network)
    session = file_session(path)
    x = weights(5, 4, 6, seed=9)
    want = session(x) if batch == "N" else [np.concatenate([session(one[None])[0] for one in x])]
    assert np.allclose(imported.network(torch.from_numpy(x)).detach().numpy(), want[0], rtol=1e-4, atol=1e-5)


# A number that is zero for every input, as no run of the file can show.
NOUGHT = "most = ReduceMax <keepdims = 0> (x) less = Sub (most, most) nil = Cast <to = 7> (less)"


@pytest.mark.parametrize(
    "body",
    [
        f"{NOUGHT} {ASIDE} to = Add (heads, nil) q = Reshape (t, to) k = Transpose <perm = [1, 0, 2]> (q) y = Reshape (k, whole)",
        f"{NOUGHT} {ASIDE} at = Add (one, nil) y = Gather <axis = 0> (t, at)",
        f"{NOUGHT} {GRAPHS['entries of one row of all samples'].replace('(s, last)', '(w, last)')}".replace(
            "c =", "w = Add (s, nil) c ="
        ),
        f"{ASIDE} u = CumSum (t, one) {BACK}",  # no words for it
        f"{ASIDE} s = Softmax <axis = 1> (t) u = Relu (s) {BACK}",  # over the batch: samples depend on each other
        f"{ASIDE} y = Relu (t)",  # never back
        f"{ASIDE} u = ReduceMean <axes = [1]> (t) {BACK}",
        "t = Reshape (x, row) y = Gather <axis = 0> (t, places)",  # always the first sample's
        f"{ASIDE} s = Transpose <perm = [0, 2, 1]> (t) u = MatMul (t, s) y = Transpose <perm = [1, 0, 2]> (u)",
    ],
)
def test_what_has_no_batch_first_form_is_refused(body: str, tmp_path: Path) -> None:
    with pytest.raises(InputRejected):
        rules.require(load(written(body, tmp_path / "model.onnx")).network)
