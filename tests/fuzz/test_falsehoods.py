"""The search for false certificates itself: it makes files that are valid, and finds what is planted."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.certify.prover import Prover
from tests.fuzz import suspect_pieces  # noqa: F401  (enrols the pieces)
from tests.fuzz.falsehoods import Figures, Search, search
from tests.fuzz.suspects import HEADS, PIECES, Suspect, drawn


def test_suspects_are_made_again_from_their_seed():
    assert all(drawn(s).build() == drawn(s).build() for s in range(20))


def test_most_suspects_are_certified_somewhere_and_none_falsely(tmp_path):
    """`make fuzz` goes on for minutes, from other seeds."""
    figures = search(6, 100, tmp_path, points=64)
    assert figures.false == 0
    assert figures.suspects >= 2


def test_a_bound_that_is_wrong_is_found_kept_and_made_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(Prover, "margins", lambda self, method, ball, rows, **more: np.ones(len(rows)))
    figures = search(60, 3, tmp_path, points=64, most=1)
    assert figures.false == 1
    (kept,) = tmp_path.glob("false-*.npz")
    assert len(np.load(kept)["points"]) > 0


@pytest.mark.parametrize("piece", ["company", "counted"])
def test_samples_that_are_read_together_are_refused(piece, tmp_path):
    figures = Figures()
    tried = Search(tmp_path, 64, figures)
    for seed in range(2):
        assert tried.examine(Suspect((3,), (piece,), "plain", 17, seed)) is None
    tried.close()
    assert sum("samples of a batch" in reason for reason in figures.refused) >= 1
    assert {"plain", "across"} <= set(HEADS)
    assert len(PIECES) > 10
