"""Every loss learns the digits, one seed, with room for the machine to differ: in a few epochs more than in the first, and, in
`make test-all`, in twelve as much as it should.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.bounds.margins import head
from pipeline.core.threat import clipped_box
from pipeline.data import Loader, load
from pipeline.train import Finished, Task, recipe, train
from pipeline.train.adversary import adversarial_points
from tests.nets import Drawing

EPS = Fraction(1, 20)


@cache
def digits(part: str) -> tuple[Tensor, Tensor]:
    data = load("digits", part=part)
    return torch.from_numpy(data.images).reshape(-1, 1, 8, 8).float(), torch.from_numpy(data.labels)


def network():
    from torch import nn

    d = Drawing()
    x = d(nn.ReLU(), d(nn.Conv2d(1, 8, 4, stride=2, padding=1), d.input(1, 8, 8)))
    x = d(nn.ReLU(), d(nn.Linear(128, 32), d(nn.Flatten(), x)))
    return d.finish(d(nn.Linear(32, 10), x), shapes=((None, 10),))


def learnt(name: str, eps: Fraction = EPS, **settings: object) -> Finished:
    x, y = digits("train")
    hyperparameters = recipe(
        name, input_shape=(1, 8, 8), n_train=len(x), **({"epochs": 12, "batch_size": 64} | settings)
    )
    *_, last = train(Task(network(), Loader(x, y, batch_size=64, seed=0), hyperparameters, eps, digits("test")))
    assert isinstance(last, Finished)
    return last


def attacked_accuracy(last: Finished, eps: Fraction) -> float:
    x, y = digits("test")
    box, draw = clipped_box(x, float(eps)), torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    point = adversarial_points(head(last.network.plan()), box, y, draw, steps=20, step=0.25)
    return float((last.network(point).argmax(1) == y).double().mean())


LOSSES = pytest.mark.parametrize(
    ("name", "settings", "natural", "certified"),
    [
        ("shi2021", {}, 0.85, 0.7),
        ("mtl-ibp", {}, 0.85, 0.6),
        ("crown-ibp", {}, 0.7, 0.4),
        ("shi2021", {"natural_start": 0.5, "natural_end": 0.3}, 0.85, 0.6),
        ("shi2021", {"loss": "crown-ibp", "crown_start": 1.0, "crown_end": 0.5}, 0.8, 0.6),
        ("shi2021", {"micro_batch": 24, "ema": 0.9, "optimiser": "adamw", "weight_decay": 0.01}, 0.85, 0.7),
    ],
    ids=["shi2021", "mtl-ibp", "crown-ibp", "natural share", "CROWN-IBP with BatchNorm", "micro-batches, EMA, AdamW"],
)


@LOSSES
def test_it_certifies_ever_more(name: str, settings: dict[str, object], natural: float, certified: float) -> None:
    first, *_, last = learnt(name, epochs=4, **settings).history
    assert last["held_natural"] > natural - 0.3
    assert last["held_certified"] > first["held_certified"] + 0.1
    assert last["robust"] > 0


@pytest.mark.slow
@LOSSES
def test_it_certifies(name: str, settings: dict[str, object], natural: float, certified: float) -> None:
    last = learnt(name, **settings).history[-1]
    assert last["held_natural"] > natural
    assert last["held_certified"] > certified


@pytest.mark.parametrize(
    ("epochs", "accurate", "gained"), [(4, 0.6, 0.02), pytest.param(12, 0.9, 0.1, marks=pytest.mark.slow)]
)
def test_adversarial_training_withstands_attacks_and_certifies_nothing(
    epochs: int, accurate: float, gained: float
) -> None:
    eps = Fraction(1, 10)
    trained, natural = learnt("pgd", eps, epochs=epochs), learnt("pgd", Fraction(0), epochs=epochs)
    assert trained.history[-1]["held_natural"] > accurate
    assert attacked_accuracy(trained, eps) > attacked_accuracy(natural, eps) + gained
    assert trained.history[-1]["held_certified"] < 0.3


def test_a_penalty_on_absolute_weights_makes_them_smaller() -> None:
    few = [learnt("vanilla-ibp", epochs=2, l1=weight).network for weight in (0.0, 1e-2)]
    sizes = [sum(float(p.abs().sum()) for p in n.parameters() if p.dim() > 1) for n in few]
    assert sizes[1] < 0.8 * sizes[0]
    assert all(float(F.relu(n(digits("test")[0])).isfinite().all()) for n in few)
