"""Random ONNX graphs over every operator that bounds support, with a region of inputs and a label for each.

A graph is a recipe, a list of moves: each names an operator, the earlier value that it reads and a number that its shape,
its attributes and its weights are drawn from. Hypothesis draws recipes, and a failing one shrinks to few moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.moves import MOVES
from tests.fuzz.sketch import OPSET, Sketch

LARGEST = 96
"""No value has more entries than this, a sample."""
SHAPES = ((6,), (1,), (12,), (3, 4), (1, 7), (2, 5, 5), (1, 4, 4), (3, 4, 3), (2, 1, 6))
BOXES = ("point", "narrow", "small", "wide", "one-sided", "some entries fixed")
ORDINARY, EXTREME = (1.0,), (1e-20, 1e-9, 1e-3, 1.0, 1e3, 1e9, 1e20)


@dataclass(frozen=True)
class Graph:
    """One case: a file, and boxes around one sample of its input."""

    model: onnx.ModelProto
    center: np.ndarray
    """float32, (1, *shape)"""
    radius: np.ndarray
    """float64, (1, *shape)"""
    classes: int
    recipe: str

    def __repr__(self) -> str:
        return self.recipe


def build(shape: tuple[int, ...], recipe: list[tuple[str, int, int]], seed: int, scales: tuple[float, ...]) -> Sketch:
    """The graph of a recipe, ending in the value ``y`` of a few classes; a move that does not fit is left out."""
    g = Sketch(np.random.default_rng(seed), scales)
    g.shapes["x"] = shape
    values = ["x"]
    for name, pick, variant in recipe:
        g.rng = np.random.default_rng([seed, variant])
        before = len(g.nodes), set(g.shapes)
        # Values read last are read again most often, so that graphs grow deep; any other makes a branch.
        made = MOVES[name](g, values[-1 - pick % len(values)] if pick % 3 == 0 else values[-1])
        if made is None or not 0 < int(np.prod(g.shapes[made])) <= LARGEST or not g.shapes[made]:
            del g.nodes[before[0] :]
            g.shapes = {v: s for v, s in g.shapes.items() if v in before[1]}
        else:
            values.append(made)
    finish(g, values[-1])
    return g


def finish(g: Sketch, x: str) -> None:
    """Logits of 2 to 5 classes: a Gemm, a mean over all but the classes, or the value itself where it fits."""
    g.rng = np.random.default_rng([7, len(g.nodes)])
    if len(g.shapes[x]) > 1:
        x = g("Flatten", x)
    (n,) = g.shapes[x]
    if not (2 <= n <= 5 and g.nodes and g.rng.random() < 0.5):
        k = int(g.rng.integers(2, 6))
        x = g("Gemm", x, g.weights(n, k, fan_in=n), g.weights(k))
    g.nodes.append(helper.make_node("Identity", [x], ["y"], name="logits"))
    g.shapes["y"] = g.shapes[x]


def region(shape: tuple[int, ...], kind: str, scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A center that float32 holds exactly, and radii: zero, below the spacing of floats, usual, large, or mixed."""
    rng = np.random.default_rng(seed)
    center = (rng.standard_normal((1, *shape)) * scale).astype(np.float32)
    size = {"point": 0.0, "narrow": 1e-8, "small": 0.05, "wide": 2.0}.get(kind, 0.3) * scale
    radius = rng.random((1, *shape)) * size
    if kind == "one-sided":
        center = np.abs(center).astype(np.float32)
        radius = center.astype(np.float64)  # down to zero exactly
    elif kind == "some entries fixed":
        radius = np.where(rng.random((1, *shape)) < 0.7, 0.0, radius)
    return center, radius


def graph_of(
    shape: tuple[int, ...], recipe: list[tuple[str, int, int]], seed: int, kind: str, extreme: bool, batch: int | str
) -> Graph:
    scales = EXTREME if extreme else ORDINARY
    g = build(shape, recipe, seed, scales)
    used = {i for n in g.nodes for i in n.input}
    made = helper.make_model(
        helper.make_graph(
            g.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, *g.shapes["y"]])],
            [numpy_helper.from_array(a, n) for n, a in g.constants.items() if n in used],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
    )
    rng = np.random.default_rng(seed)
    center, radius = region(shape, kind, float(rng.choice(scales)), seed)
    told = f"graph_of({shape}, {recipe}, {seed}, {kind!r}, {extreme}, {batch!r})"
    return Graph(made, center, radius, g.shapes["y"][0], told)


@st.composite
def graphs(draw: st.DrawFn, *, deepest: int = 9) -> Graph:
    """Graphs of up to ``deepest`` moves."""
    step = st.tuples(st.sampled_from(sorted(MOVES)), st.integers(0, 7), st.integers(0, 1 << 16))
    return graph_of(
        draw(st.sampled_from(SHAPES)),
        draw(st.lists(step, min_size=1, max_size=deepest)),
        draw(st.integers(0, 1 << 20)),
        draw(st.sampled_from(BOXES)),
        draw(st.integers(0, 3)) == 3,
        draw(st.sampled_from(("batch", "batch", 1))),
    )
