"""Whole runs on a few hundred points: events, resumption bit for bit, switches, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.bounds.margins import MarginBounds
from pipeline.core.network import Network
from pipeline.core.ops import AffineBN, BatchNorm
from pipeline.core.threat import clipped_box
from pipeline.data import Loader
from pipeline.errors import Diverged, InputRejected, Preempted, UsageError
from pipeline.system.seal import Seal
from pipeline.train import BatchDone, Checkpoint, Epoch, Finished, Started, recipe, train
from pipeline.train.objective import shrinkage
from pipeline.train.step import Trainer
from pipeline.train.task import Task, prepare
from tests.nets import Drawing, conv_net, mlp

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
    ),
]
EPS = Fraction(1, 20)


def data(network: Network, n: int = 96, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Points about one prototype a class."""
    generator = torch.Generator().manual_seed(5)
    shape = network.inputs[0].shape[1:]
    y = torch.arange(n) % classes
    prototypes = (torch.rand(classes, *shape, generator=generator) > 0.5).float() * 0.6 + 0.2
    return (prototypes[y] + 0.05 * torch.randn(n, *shape, generator=generator)).clamp(0, 1), y


def start(
    network: Network,
    *,
    device: str = "cpu",
    eps: Fraction = EPS,
    settings: dict[str, Any] | None = None,
    identity: dict[str, str] | None = None,
    **options: Any,
):
    x, y = data(network)
    fast = {"epochs": 4, "batch_size": 16, "warmup_start": 2, "warmup_length": 2, "learning_rate": 5e-3}
    hyperparameters = recipe("shi2021", input_shape=x.shape[1:], n_train=len(x), **(fast | (settings or {})))
    batches = Loader(x, y, batch_size=hyperparameters.batch_size, seed=hyperparameters.seed, device=device)
    held_out = tuple(v[:32].to(device) for v in data(network, 48))
    return train(
        Task(network, batches, hyperparameters, eps, held_out, identity=identity or {}), device=device, **options
    )


def outcome(network: Network, **options: Any) -> tuple[Network, list[dict[str, float]]]:
    *_, last = start(network, **options)
    assert isinstance(last, Finished)
    return last.network, [{k: v for k, v in r.items() if k != "seconds"} for r in last.history]


def same(a: Network, b: Network) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_tells_what_it_does_and_learns(device: str) -> None:
    network = mlp(12, 24, 16, 4)
    before = copy.deepcopy(network)
    events = list(start(network, device=device, settings={"epochs": 8, "batch_size": 8}))
    first, *middle, last = events
    assert isinstance(first, Started)
    assert isinstance(last, Finished)
    assert (first.total_steps, first.resumed_at, len(first.placements)) == (8 * 12, None, 3)
    assert same(network, before)
    assert sum(isinstance(e, BatchDone) for e in middle) == 8 * 12
    records = [e.record for e in middle if isinstance(e, Epoch)]
    assert list(last.history) == records
    assert [r["epoch"] for r in records] == list(range(1, 9))
    assert [r["robust"] > 0 for r in records] == [False] + [True] * 7
    assert [r["eps"] for r in records[-4:]] == [float(EPS)] * 4
    assert [r["lambda"] > 0 for r in records[:4]] == [True, True, False, False], "gone with the last batch of the ramp"
    assert records[-1]["lambda"] == records[-1]["tightness"] == 0
    assert records[-1]["held_certified"] > 0.9
    assert records[-1]["held_natural"] >= records[-1]["held_certified"]
    x, y = (v[:32] for v in data(network, 48))
    proved = MarginBounds(last.network).least(clipped_box(x, float(EPS)), y) > 0
    assert records[-1]["held_certified"] == float(proved.double().mean()), "bounds of the weights as they are, not were"
    assert not last.network.training
    assert all(p.device.type == "cpu" for p in last.network.parameters())
    assert [type(s.op) for s in last.network.plan().steps] == [type(s.op) for s in network.plan().steps]


MIXED = {
    "loss": "mtl-ibp",
    "alpha": 0.6,
    "natural_end": 0.3,
    "ema": 0.9,
    "select": "held-out",
    "optimiser": "adamw",
    "population_bn": True,
}


CROWN = {"loss": "crown-ibp", "crown_start": 1.0, "micro_batch": 5}


STOPS = [(3,), (6, 7), (1, 13, 22)]
KINDS = {"ibp": {}, "mixed": MIXED, "crown": CROWN}


@pytest.mark.parametrize(
    ("stops", "settings"),
    [
        pytest.param(s, KINDS[k], id=f"{s}-{k}", marks=[pytest.mark.slow] if k == "crown" and s != STOPS[0] else [])
        for s in STOPS
        for k in KINDS
    ],
)
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, stops: tuple[int, ...], settings: dict[str, Any]
) -> None:
    network = conv_net(bn=True)
    whole, history = outcome(network, settings=settings)
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps in stops

    checkpoint = Checkpoint(tmp_path / "run" / "checkpoint.pt", Seal(bytes(32)))
    for _ in stops:
        with pytest.raises(Preempted, match="goes on"):
            outcome(network, checkpoint=checkpoint, should_stop=stop, settings=settings)
    resumed, replay = outcome(network, checkpoint=checkpoint, should_stop=stop, settings=settings)
    assert same(whole, resumed)
    assert history == replay


def test_a_finished_run_trains_nothing_more(tmp_path: Path) -> None:
    network, checkpoint = mlp(12, 9, 4), Checkpoint(tmp_path / "checkpoint.pt", Seal(bytes(32)))
    trained, history = outcome(network, checkpoint=checkpoint)
    events = list(start(network, checkpoint=checkpoint))
    assert [type(e) for e in events] == [Started, Finished]
    assert events[0].resumed_at == (4, 0)
    assert same(events[-1].network, trained)
    assert len(events[-1].history) == len(history)


def test_another_run_s_checkpoint_is_refused(tmp_path: Path) -> None:
    network, checkpoint = mlp(12, 9, 4), Checkpoint(tmp_path / "checkpoint.pt", Seal(bytes(32)))
    outcome(network, checkpoint=checkpoint, identity={"data": "a" * 64})
    for changed, message in (
        ({"eps": Fraction(1, 10)}, "eps was 1/20 and is 1/10"),
        ({"settings": {"tau": 0.4}}, r"recipe\.tau"),
        ({"identity": {"data": "b" * 64}}, "data was"),
    ):
        with pytest.raises(UsageError, match=message):
            outcome(network, checkpoint=checkpoint, **({"identity": {"data": "a" * 64}} | changed))
    with pytest.raises(UsageError, match="model was"):
        outcome(mlp(12, 9, 4, seed=1), checkpoint=checkpoint, identity={"data": "a" * 64})


def trained_form(events: Any) -> Network:
    """The model while it trains, from inside the generator."""
    next(events)
    return events.gi_frame.f_locals["session"].model


@pytest.mark.parametrize(
    ("settings", "holds"),
    [
        ({"full_bn": False}, lambda m, f: not any(isinstance(x, AffineBN) for x in m.modules()) and not f["inserted"]),
        ({"bn": "keep"}, lambda m, f: f["inserted"]),
        ({"ibp_init": False}, lambda m, f: m.graph.n1.affine.weight.abs().max() <= 12**-0.5),
        ({"tightness": False}, lambda m, f: f["loss"] == pytest.approx(f["natural"] + 0.5 * f["balance"])),
        ({"balance": False}, lambda m, f: f["loss"] == pytest.approx(f["natural"] + 0.5 * f["tightness"])),
        ({"tightness": False, "balance": False}, lambda m, f: f["loss"] == f["natural"] and f["tightness"] == 0),
        ({"population_bn": True}, lambda m, f: True),
        ({"warmup_length": 0}, lambda m, f: f["eps"] == 0),
    ],
    ids=lambda v: "" if callable(v) else str(v),
)
def test_each_idea_is_a_switch(settings: dict[str, Any], holds: Callable[[Network, dict[str, Any]], bool]) -> None:
    network = mlp(12, 9, 8, 4)
    model = trained_form(start(network, settings=settings))
    trained, history = outcome(network, settings=settings)
    assert holds(model, {**history[0], "inserted": trained.provenance.inserted})
    x, _ = data(network)
    assert trained(x).isfinite().all()


def test_keeping_the_weights_keeps_the_function() -> None:
    network = conv_net()
    model = trained_form(start(network, settings={"init": "keep"}))
    x, _ = data(network)
    assert sum(isinstance(m, BatchNorm) for m in model.modules()) == 3
    assert torch.allclose(model(x), network(x), atol=1e-4)
    assert torch.allclose(model.graph.n5.bn.running_mean, model.graph.n5.bn.bias)


def test_frozen_parameters_stay() -> None:
    network = mlp(12, 9, 8, 4, bn=True)
    why = {"n1.weight": "it lies behind a Cast", "n2.weight": "it lies behind a Cast"}
    network = Network(network.graph, network.inputs, network.outputs, replace(network.provenance, frozen=why))
    trained, _ = outcome(network)
    for name in ("n1.weight", "n2.weight", "n2.running_mean"):
        module, _, tensor = name.partition(".")
        assert torch.equal(
            getattr(getattr(trained.graph, module), tensor), getattr(getattr(network.graph, module), tensor)
        )
    assert not torch.equal(trained.graph.n4.weight, network.graph.n4.weight)


def test_at_eps_zero_training_is_natural() -> None:
    _, history = outcome(mlp(12, 9, 4), eps=Fraction(0))
    assert all(r["robust"] == r["tightness"] == r["eps"] == 0 for r in history)
    assert history[-1]["held_certified"] == history[-1]["held_natural"]


@pytest.mark.parametrize("model", [mlp(12, 9, 4), mlp(12, 9, 4, bn=True)])
def test_a_loss_that_is_not_finite_ends_the_run_and_says_where_and_why(model: Network) -> None:
    with pytest.raises(Diverged, match="learning rate") as error:
        outcome(model, settings={"learning_rate": 1e30, "full_bn": False})
    assert "epoch 1" in str(error.value)
    assert "weights have reached 1e+30" in str(error.value)
    assert "Linear 'file/n" in str(error.value)


def test_bounds_that_explode_are_told_by_their_layer() -> None:
    """Weights that are kept, of two layers whose product leaves float32."""
    network = mlp(12, 9, 8, 4)
    with torch.no_grad():
        network.graph.n1.weight.mul_(1e30)
        network.graph.n3.weight.mul_(1e30)
    with pytest.raises(Diverged, match=r"bounds of Linear 'file/n3' are not finite") as error:
        outcome(network, settings={"init": "keep", "full_bn": False})
    assert "weights have reached" in str(error.value)


def test_data_that_are_not_finite_are_told() -> None:
    network = mlp(12, 9, 4)
    x, y = data(network)
    x[50, 3] = torch.nan
    settings = recipe("shi2021", input_shape=(12,), n_train=len(x), epochs=2, batch_size=16)
    with pytest.raises(Diverged, match=r"Batch \d of its data holds a value that is not finite"):
        list(train(Task(network, Loader(x, y, batch_size=16, seed=0), settings, EPS)))


def test_after_a_failure_the_weights_are_those_that_met_it() -> None:
    """What the diagnosis looks at: no step is taken with a gradient that is not finite, nor after one."""
    network = mlp(12, 9, 4)
    x, y = data(network, 16)
    run = Trainer(network, 3, recipe("vanilla-ibp", input_shape=(12,), n_train=16, epochs=1), EPS, 0.0, 1.0)
    run.begin(1)
    run.step(0, x, y)
    before = copy.deepcopy(network.state_dict())
    run.step(1, x * torch.nan, y)
    run.step(2, x, y)
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    with pytest.raises(Diverged):
        run.check()


def test_a_deep_net_whose_gradients_have_no_square_in_float32() -> None:
    """Forty layers: at first bounds are of 1e25, and the norm of what the plain loss gives is infinite."""
    network = mlp(12, *[64] * 40, 4)
    x, y = data(network)
    settings = recipe(
        "shi2021", input_shape=(12,), n_train=96, epochs=12, batch_size=16, warmup_start=1, warmup_length=6
    )
    loader = Loader(x, y, batch_size=16, seed=0)
    task = Task(network, loader, settings, Fraction(1, 1000))
    one = Trainer(prepare(task), len(loader), settings, task.eps, 0.0, 1.0)
    losses = []
    for epoch in range(1, 13):
        one.begin(epoch)
        for i, (xs, ys) in enumerate(loader.epoch(epoch)):
            if not losses:
                plain = torch.autograd.grad(one.terms(i, xs, ys).loss, one.parameters)
                assert all(bool(g.isfinite().all()) for g in plain)
                assert nn.utils.get_total_norm(plain).isinf()
            one.step(i, xs, ys)
        losses.append(one.check()[0] / len(loader))
        one.totals.zero_()
    assert losses[0] > 1e20
    assert losses[-1] < 10


@pytest.mark.parametrize(
    ("loss", "divisor"),
    [(0.0, 1), (2.3, 1), (1e6, 1), (2.0**30, 2.0**11), (1e30, 2.0**80), (torch.inf, 1), (torch.nan, 1)],
)
def test_only_a_loss_beyond_measure_is_divided(loss: float, divisor: float) -> None:
    assert float(shrinkage(torch.tensor(loss))) == divisor


def test_what_was_divided_is_multiplied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant added to the loss changes no step, whatever its size."""
    network = mlp(12, 9, 4)
    x, y = data(network, 16)
    results = []
    for more in (0.0, 2.0**24, 2.0**60):
        run = Trainer(
            copy.deepcopy(network), 3, recipe("vanilla-ibp", input_shape=(12,), n_train=16, epochs=1), EPS, 0.0, 1.0
        )
        run.begin(1)
        terms = run.terms(0, x, y)
        monkeypatch.setattr(run, "_terms", lambda *_, t=terms, m=more: replace(t, loss=t.loss + m))
        run.step(0, x, y)
        results.append(torch.cat([p.grad.flatten() for p in run.parameters]))
    assert results[0].norm() > 0.1
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_the_held_out_part_chooses_the_epoch_that_is_delivered() -> None:
    network = conv_net(bn=True)
    settings = {"epochs": 8, "learning_rate": 2e-2, "warmup_length": 1, "select": "held-out"}
    *_, last = start(network, settings=settings)
    whole = [r for r in last.history if r["epoch"] >= 2]
    best = max(whole, key=lambda r: (r["held_certified"], r["epoch"]))
    assert last.epoch == best["epoch"]
    x, y = (v[:32] for v in data(network, 48))
    proved = MarginBounds(last.network).least(clipped_box(x, float(EPS)), y) > 0
    assert float(proved.double().mean()) == best["held_certified"]
    assert start_epoch(network, {**settings, "select": "final"}) == 8


def start_epoch(network: Network, settings: dict[str, Any]) -> int:
    *_, last = start(network, settings=settings)
    return last.epoch


def test_the_mean_of_the_weights_is_delivered_and_shown() -> None:
    """Of a run of one epoch after the ramp: six steps, averaged by hand."""
    network = mlp(12, 9, 4)
    events = start(network, settings={"epochs": 2, "warmup_start": 1, "warmup_length": 1, "ema": 0.5, "full_bn": False})
    mean, steps, last = None, 0, None
    for event in events:
        if isinstance(event, BatchDone) and event.epoch == 2:
            weight = events.gi_frame.f_locals["session"].model.graph.n1.weight.detach().clone()
            decay = min(0.5, steps / (steps + 9))
            mean = weight if mean is None else decay * mean + (1 - decay) * weight
            steps += 1
        last = event
    assert isinstance(last, Finished)
    assert steps == 6
    assert torch.allclose(last.network.graph.n1.weight, mean, atol=1e-6)
    x, y = (v[:32] for v in data(network, 48))
    proved = MarginBounds(last.network).least(clipped_box(x, float(EPS)), y) > 0
    assert last.history[-1]["held_certified"] == float(proved.double().mean())


@pytest.mark.parametrize(
    "settings", [{}, {"full_bn": False}, {"init": "keep", "optimiser": "adamw", "l1": 1e-3}], ids=str
)
def test_zeros_stay_zero(settings: dict[str, Any]) -> None:
    network = conv_net(bn=True)
    with torch.no_grad():
        for p in (network.graph.n5.weight, network.graph.n12.weight):
            p.mul_(torch.rand(p.shape, generator=torch.Generator().manual_seed(1)) > 0.6)
    zeros = {n: p == 0 for n, p in network.graph.named_parameters()}
    trained, history = outcome(network, settings={"keep_sparsity": True} | settings)
    for name, zero in zeros.items():
        left = dict(trained.graph.named_parameters())[name]
        assert bool((left[zero] == 0).all())
        assert bool((left != dict(network.graph.named_parameters())[name])[~zero].any())
    assert history[-1]["natural"] < history[0]["natural"]
    free, _ = outcome(network, settings=settings)
    assert not bool((free.graph.n5.weight[zeros["n5.weight"]] == 0).any())


def test_what_cannot_be_trained_is_refused() -> None:
    d = Drawing()
    x = d(nn.Linear(6, 4), d.input(6))
    with pytest.raises(InputRejected, match="one output"):
        next(start(d.finish(x, d(nn.ReLU(), x), shapes=((None, 4), (None, 4)))))
    network = mlp(12, 9, 4)
    why = dict.fromkeys(network.provenance.weights, "quantised")
    with pytest.raises(InputRejected, match="frozen"):
        next(start(Network(network.graph, network.inputs, network.outputs, replace(network.provenance, frozen=why))))
