"""How long a run takes is foretold from its steps; as many epochs are chosen as fit."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pipeline.commands.budget import SHARE, most
from pipeline.data import Loader
from pipeline.distributed.group import SINGLE
from pipeline.errors import UsageError
from pipeline.train import Task, recipe
from pipeline.train.execution import PLAIN
from pipeline.train.pace import Pace, measure
from tests.nets import mlp
from tests.train.test_loop import EPS, data

PACE = Pace(clean=1.0, ramp=4.0, full=2.0, epoch=10.0, once=100.0)
OF_LENGTH = partial(recipe, "shi2021", input_shape=(3, 32, 32), n_train=50_000)


def test_each_kind_of_epoch_counts_as_often_as_the_recipe_has_it() -> None:
    made = OF_LENGTH(epochs=16)
    assert (made.warmup_start, made.warmup_length) == (2, 8)
    assert PACE.seconds(made, steps=5) == 100 + 16 * 10 + 5 * (1 * 1 + 8 * 4 + 7 * 2)


@pytest.mark.parametrize("budget", [1_000.0, 1_500.0, 4_321.0])
def test_one_epoch_more_would_not_fit(budget: float) -> None:
    chosen = most(OF_LENGTH(), lambda n: OF_LENGTH(epochs=n), PACE, 5, budget)
    assert 3 < chosen < 160
    fits = [PACE.seconds(OF_LENGTH(epochs=n), 5) <= SHARE * budget for n in (chosen, chosen + 1)]
    assert fits == [True, False]


def test_the_recipes_own_length_is_the_most_and_a_ramp_the_least() -> None:
    def chosen(budget: float) -> int:
        return most(OF_LENGTH(), lambda n: OF_LENGTH(epochs=n), PACE, 5, budget)

    assert chosen(1e9) == 160
    least = PACE.seconds(OF_LENGTH(epochs=3), 5) / SHARE
    assert chosen(least + 1) == 3
    with pytest.raises(UsageError, match="3 epochs, the least"):
        chosen(least - 1)


def test_a_measurement_leaves_the_network_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train.pace.ENOUGH", 0.02)
    network = mlp()
    x, y = data(network)
    made = recipe("fast", input_shape=x.shape[1:], n_train=len(x), epochs=4, batch_size=16)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    found = measure(Task(network, Loader(x, y, batch_size=16, seed=0), made, EPS, (x, y)), "cpu", PLAIN, SINGLE)
    assert min(found.clean, found.ramp, found.full, found.epoch) > 0
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
