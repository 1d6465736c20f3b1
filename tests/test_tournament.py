"""The comparison of recipes: what decides was never trained on, and chance is not taken for a lead."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    before = sys.path[:]
    try:
        return runpy.run_path(str(SCRIPTS / "tournament.py"))
    finally:
        sys.path[:] = before


def test_samples_that_decide_are_of_the_training_part_and_not_trained_on(
    script: dict[str, Any], tmp_path: Path
) -> None:
    x = np.arange(60, dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x[:40], y_train=x[:40], x_test=x[40:], y_test=x[40:])
    with np.load(script["set_aside"](tmp_path / "data.npz", tmp_path, 25, 15)) as made:
        parts = {name: set(made[name].tolist()) for name in made.files}
    assert parts["x_train"] == parts["y_train"]
    assert parts["x_train"] | parts["x_test"] == set(range(40))
    assert not parts["x_train"] & parts["x_test"]


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([(3.0, 1.0), (2.0, 1.5)], "a less b: +2.00, +0.50: a leads."),
        ([(1.0, 3.0), (1.0, 1.5)], "a less b: -2.00, -0.50: b leads."),
        ([(3.0, 1.0), (1.0, 1.5)], "a less b: +2.00, -0.50: no claim."),
        ([(3.0, 1.0), (None, 1.5)], "a less b: +2.00: no claim from one seed."),
        ([(None, 1.0)], "a and b: no seed of both has finished."),
    ],
)
def test_a_recipe_leads_where_it_is_ahead_with_every_seed(script: dict[str, Any], scores: Any, says: str) -> None:
    class Scored(script["Tournament"]):  # type: ignore[misc]
        def score(self, entry: Any, seed: int) -> float | None:
            return scores[seed][entry.recipe == "b"]

    one, two = (script["Entry"](name, "1e-3") for name in "ab")
    assert Scored(None, Path(), "ibp").paired(one, two, len(scores)) == says


def test_options_stand_behind_the_name_of_a_recipe(script: dict[str, Any]) -> None:
    options = script["Entry"]("distil:alpha=0.5:l1=0", "1e-3").options
    assert options == ("--recipe", "distil", "--learning-rate", "1e-3", "--alpha", "0.5", "--l1", "0")
