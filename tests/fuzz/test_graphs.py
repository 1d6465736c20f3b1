"""Random graphs, some of them in every run of the tests; `make fuzz` goes on for minutes, from other seeds."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pipeline.rules.relu import ReLURule
from tests.fuzz.graphs import graph_of, graphs
from tests.fuzz.moves import MOVES
from tests.fuzz.sound import Figures, examine
from tests.selection import everything

FOUND = [
    # A search of slopes where no row reads the node whose slopes are open.
    ((6,), [("clip", 0, 2159), ("clip", 0, 2159), ("unary", 5, 9013)], 962, "small", False, "batch"),
]


def test_random_graphs_are_imported_and_bounded_soundly_at_every_node(tmp_path, pytestconfig):
    figures = Figures()

    @settings(
        max_examples=20 if everything(pytestconfig) else 6,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(graphs())
    def check(graph):
        examine(graph, tmp_path, figures)

    check()
    print(figures)
    assert figures.refused <= figures.graphs // 10, "hardly a graph is imported"
    assert figures.finite >= figures.graphs // 2, "hardly a graph is bounded"
    assert figures.certified > 0


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case[1][-1][0])
def test_graphs_that_were_found(case, tmp_path):
    examine(graph_of(*case), tmp_path, Figures())


@pytest.mark.parametrize("name", sorted(MOVES))
def test_every_move_makes_a_file_that_onnx_accepts(name):
    """No move is refused in silence for all shapes: each is drawn for each."""
    made = set()
    for shape in ((6,), (3, 4), (2, 5, 5)):
        for variant in range(6):
            graph = graph_of(shape, [(name, 0, variant)], variant, "small", False, "batch")
            onnx.checker.check_model(graph.model, full_check=True)
            made |= {n.op_type for n in graph.model.graph.node} - {"Identity", "Flatten", "Gemm"}
    assert made or name in ("gemm", "reshaped")


def test_a_wrong_rule_is_found(tmp_path, monkeypatch):
    """The harness can fail: an upper line of ReLU drawn through the origin."""
    honest = ReLURule.relax

    def wrong(self, op, *xs, rounding):
        lines = honest(self, op, *xs, rounding=rounding)
        lines.above.offset.mul_(0.5)
        return lines

    monkeypatch.setattr(ReLURule, "relax", wrong)
    graph = graph_of((6,), [("gemm", 0, 1), ("relu", 0, 1), ("gemm", 0, 2), ("relu", 0, 2)], 3, "wide", False, "batch")
    with pytest.raises(AssertionError, match="lies below"):
        examine(graph, tmp_path, Figures())
