"""The search for false certificates itself: it makes files that are valid, and finds what is planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.certify.prover import Prover
from pipeline.core import ops
from pipeline.onnx import subnormal
from pipeline.onnx.batch.symbolic import Symbolic
from pipeline.onnx.executed import pools
from pipeline.onnx.lowering.lower import LOWERINGS
from pipeline.onnx.passes import add_batch
from pipeline.rules import bilinear
from tests.fuzz.falsehoods import Figures, Search, search
from tests.fuzz.suspects import HEADS, PIECES, Suspect, drawn


def test_suspects_are_made_again_from_their_seed():
    assert all(drawn(s).build() == drawn(s).build() for s in range(20))


def test_a_bound_that_is_wrong_is_found_kept_and_made_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(Prover, "margins", lambda self, method, ball, rows, **more: np.ones(len(rows)))
    figures = search(60, 3, tmp_path, points=64, most=1)
    assert figures.false == 1
    (kept,) = tmp_path.glob("false-*.npz")
    assert len(np.load(kept)["points"]) > 0


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    search = Search(tmp_path_factory.mktemp("suspects"), 64, Figures())
    yield search
    search.close()


def test_many_suspects_are_certified_somewhere_and_none_falsely(tried):
    """`make fuzz` goes on for minutes, from other seeds."""
    tried.figures = Figures()
    assert [seed for seed in range(112, 122) if tried.examine(drawn(seed)) is not None] == []
    assert tried.figures.certified >= 4
    assert tried.figures.boxes >= tried.figures.certified


@pytest.mark.parametrize("piece", ["company", "counted"])
def test_samples_that_are_read_together_are_refused(piece, tried):
    tried.figures = Figures()
    for seed in range(2):
        assert tried.examine(Suspect((3,), (piece,), "plain", 17, seed)) is None
    assert sum("samples of a batch" in reason for reason in tried.figures.refused) >= 1
    assert {"plain", "across"} <= set(HEADS)
    assert len(PIECES) > 10


def test_files_without_a_batch_several_inputs_and_radii_of_features_are_among_them(tried):
    tried.figures = Figures()
    found = [drawn(seed) for seed in range(60)]
    assert any(s.whole for s in found)
    found += [Suspect((3,), (), "plain", 17, seed, beside=(3,), whole=True) for seed in range(4)]
    kinds = [[s.bare for s in found], [s.beside != () for s in found], [s.by_feature for s in found]]
    kinds.append([s.whole and not s.pieces for s in found])
    assert all(sum(kind) > 3 for kind in kinds)
    for kind in kinds:
        chosen = [s for s, of_kind in zip(found, kind, strict=True) if of_kind][:4]
        before = tried.figures.certified
        assert [tried.examine(s) for s in chosen] == [None] * len(chosen)
        assert tried.figures.certified > before


def _open_ended(item):
    """A Clip that takes every infinite end for none."""
    ends = [item.array(i) for i in (1, 2)]
    low, high = (None if e is None or np.isinf(e) else float(e) for e in ends)
    return item.build.emit(ops.Clip(low, high), item.arg())


def _not_transposed(lift, node):
    axes = [*range(lift.rank(node.output) + 1)]
    return replace(node, attributes=node.attributes | {"perm": axes})


FAULTS = {
    "bare_move": lambda m: m.setitem(add_batch._REWRITES, "Transpose", _not_transposed),
    "itself": lambda m: m.setattr(bilinear._BilinearRule, "squares", True),
    "open_ended": lambda m: m.setitem(LOWERINGS, "Clip", _open_ended),
    "padded": lambda m: m.setattr(pools, "_is_nonnegative_clip", lambda *a: True),
    "tiny": lambda m: m.setattr(subnormal, "require", lambda graph: None),
    "tiny_parts": lambda m: m.setattr(subnormal, "require", lambda graph: None),
    "reckoned": lambda m: m.setattr(Symbolic, "require_exact", lambda self: None),
}
SEEDS = {"bare_move": 60, "itself": 65, "open_ended": 5, "padded": 8, "tiny": 3, "tiny_parts": 5, "reckoned": 32}


@pytest.mark.parametrize("piece", FAULTS)
def test_a_fault_is_found_by_the_piece_that_is_made_for_it(piece, tried, monkeypatch):
    suspect = replace(drawn(SEEDS[piece], [piece]), pieces=(piece,))
    assert tried.examine(suspect) is None
    FAULTS[piece](monkeypatch)
    assert tried.examine(suspect) is not None
