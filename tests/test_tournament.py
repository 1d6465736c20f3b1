"""The comparison of recipes: what decides was never trained on, and chance is not taken for a lead."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.train.tournament import Entry, chosen

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

    one, two = (Entry(name, "1e-3") for name in "ab")
    assert Scored(None, Path(), "ibp").paired(one, two, len(scores)) == says


def test_a_recipe_whose_network_guesses_neither_leads_nor_names_its_rate(
    script: dict[str, Any], tmp_path: Path
) -> None:
    setting = script["Setting"]("title", "0.3", {}, (), ("net",))
    tournament = script["Tournament"](setting, tmp_path, "ibp")
    # Of a constant network every sample of its one class is certified: more than a network that learns may have at first.
    told = {
        ("a", "1e-3", 0): (90, 5, []),
        ("a", "1e-3", 1): (90, 6, []),
        ("a", "1e-2", 0): (11, 11, ["near-chance"]),
        ("b", "1e-3", 0): (95, 9, []),
        ("b", "1e-3", 1): (11, 11, ["near-chance"]),
    }
    for (recipe, rate, seed), (natural, certified, warnings) in told.items():
        folder = tmp_path / f"{script['run_of'](Entry(recipe, rate), setting, seed).name}.report"
        folder.mkdir()
        rung = {"name": "ibp", "certified": certified}
        level = {"natural": {"k": natural, "n": 100}, "attacked": {"k": natural, "n": 100}, "rungs": [rung]}
        result = {"levels": [level], "method": {"bounds": ["ibp"]}, "warnings": [{"code": code} for code in warnings]}
        (folder / "report.json").write_text(json.dumps({"result": result, "run": {"timings": {}}}))
    best = [tournament.best("a", ["1e-3", "1e-2"]), tournament.best("b", ["1e-3"])]
    assert [entry.rate for entry in best] == ["1e-3", "1e-3"]
    assert list(tournament.lines(best, 2))[-1] == "b: no better than guessing with seed 1, and out of the comparison."


def test_options_stand_behind_the_name_of_a_recipe(script: dict[str, Any]) -> None:
    setting = script["Setting"]("title", "0.3", {})
    run = script["run_of"](Entry("distil:alpha=0.5:l1=0", "1e-3"), setting, 0)
    assert setting.rows[run.row] == ("--recipe", "distil", "--learning-rate", "1e-3", "--alpha", "0.5", "--l1", "0")


@pytest.mark.parametrize(
    ("scores", "best", "leads"),
    [
        ({"a": [3.0, 2.0], "b": [1.0, 1.5]}, "a", True),
        ({"a": [3.0, 1.0], "b": [1.0, 1.5]}, "a", False),
        ({"a": [3.0, 2.0], "b": [1.0, 1.5], "c": [4.0, 3.0]}, "c", True),
        ({"a": [3.0, 2.0], "b": [3.0, 1.5]}, "a", False),
    ],
)
def test_the_best_mean_is_chosen_and_leads_only_with_every_seed(scores: Any, best: str, leads: bool) -> None:
    assert chosen(scores) == (best, leads)
