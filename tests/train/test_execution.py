"""Precision, compiler and layout: training alone sees them, and learns the same by them within their own rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.bounds.ibp import lockstep
from pipeline.bounds.margins import head, lockstep_margins, margins
from pipeline.core.interval import Interval, Lockstep, at_least_float32
from pipeline.data import Loader
from pipeline.errors import UsageError
from pipeline.rules.batchnorm import batch_statistics
from pipeline.train import Epoch, Fallback, Started, Task, insert, recipe, train
from pipeline.train.captured import Captured
from pipeline.train.execution import PRECISIONS, Execution
from pipeline.train.held_out import accuracies
from pipeline.train.regularise import regularisers
from pipeline.train.step import Trainer
from pipeline.train.terms import Terms
from tests.nets import conv_net, mlp

DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
)
FLAGS = (torch.backends.cuda.matmul, torch.backends.cudnn)
BN = torch.nn.BatchNorm2d(2)


def batch(device: str = "cpu", n: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 2, 8, 8, generator=generator)
    return x.to(device), torch.randint(0, 5, (n,), generator=generator).to(device)


def run(execution: Execution, device: str = "cpu", name: str = "shi2021", **changes: Any) -> Trainer:
    usual = {"batch_size": 32, "warmup_length": 2, "warmup_start": 1, "epochs": 4}
    settings = recipe(name, input_shape=(2, 8, 8), n_train=320, **(usual | changes))
    one = Trainer(insert(conv_net()).to(device), 10, settings, Fraction(1, 50), 0.0, 1.0, execution=execution)
    one.begin(2)
    return one


def gradient(one: Trainer, device: str = "cpu") -> Tensor:
    one.step(5, *batch(device))
    assert all(p.dtype == torch.float32 for p in one.parameters)
    assert all(b.isfinite().all() for b in one.model.buffers())
    return torch.cat([p.grad.flatten() for p in one.parameters]).cpu()


def alike(device: str, execution: Execution, least: float, loss: float, name: str = "shi2021") -> None:
    plain, other = run(Execution(), device, name), run(execution, device, name)
    a, b = gradient(plain, device), gradient(other, device)
    assert float(torch.cosine_similarity(a, b, dim=0)) > least
    assert torch.allclose(plain.totals[:5], other.totals[:5], rtol=loss, atol=1e-6)


def state(one: Trainer, epochs: range) -> dict[str, Tensor]:
    """What steps leave, of data of their own each."""
    for epoch in epochs:
        one.begin(epoch)
        for i in range(4):
            x, y = batch(str(one.device))
            one.step(i, x.roll(epoch + i, 0), y)
    means = {} if one.average is None else one.average.mean
    moments = [t for s in one.optimiser.state.values() for t in s.values()]
    tensors = [*one.model.graph.state_dict().values(), *means.values(), *moments, one.totals]
    return {str(i): t.clone() for i, t in enumerate(tensors)}


class Counted(Captured):
    """Notes the key of every launch."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.keys: list[Any] = []

    def launch(self) -> None:
        self.keys.append((self.key, self.calls))
        super().launch()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["shi2021", "fast"])
def test_steps_in_one_graph_are_the_same_steps(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train.step.Captured", Counted)
    settings: dict[str, Any] = {"epochs": 4, "warmup_start": 2, "warmup_length": 1, "decay_epochs": (3,)}
    plain, graphed = (run(Execution(graph=graph), device, name, **settings) for graph in (False, True))
    epochs = range(1, 5)
    expected, found = state(plain, epochs), state(graphed, epochs)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    # Each epoch here is another step: natural, on the ramp, at the full radius, with a lower rate.
    captured = graphed.captured
    assert isinstance(captured, Counted)
    assert [calls for _, calls in captured.keys] == [1, 2, 3, 4] * 4
    assert len({key for key, _ in captured.keys}) == 4


def test_what_a_step_reads_beside_its_tensors_is_its_key() -> None:
    """A graph that is launched runs no Python: arguments must reach it by the same tensors, and other Python must be captured."""
    seen: list[tuple[int, float]] = []
    captured = Captured(lambda x: seen.append((x.data_ptr(), float(x))), torch.device("cpu"))
    for key, value in (("a", 1.0), ("a", 2.0), ("b", 3.0)):
        captured(key, torch.tensor(value))
    assert [value for _, value in seen] == [1.0, 2.0, 3.0]
    assert len({address for address, _ in seen}) == 1
    assert captured.calls == 1


@pytest.mark.parametrize("name", ["shi2021", "vanilla-ibp", "crown-ibp", "mtl-ibp"])
def test_bfloat16_learns_much_the_same_and_stores_float32(name: str) -> None:
    alike("cpu", Execution("bf16", channels_last=True), 0.995, 0.02, name)


def test_under_bfloat16_sums_and_margins_are_in_float32() -> None:
    network, (x, y) = insert(conv_net()).train(), batch()
    plan, top, low = network.plan(), head(network.plan()), x.bfloat16()
    with torch.no_grad(), Execution("bf16").products(x.device):
        values = lockstep(plan, x, Interval(x, torch.full_like(x, 0.1)))
        products = {v.center.dtype for v in values if isinstance(v, Lockstep)}
        got = lockstep_margins(top, values, y), *regularisers(plan, values, tau=0.5), *batch_statistics(BN, low)
    assert torch.bfloat16 in products
    boxes = [
        v if isinstance(v, Lockstep) else Lockstep(v, v, v) for v in values
    ]  # constants of the graph, which none reads
    in_full = [Lockstep(*map(at_least_float32, (v.clean, v.center, v.radius))) for v in boxes]
    with torch.no_grad():
        want = (
            lockstep_margins(top, in_full, y),
            *regularisers(plan, in_full, tau=0.5),
            *batch_statistics(BN, low.float()),
        )
    assert all(a.dtype == torch.float32 for a in got)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_the_layout_changes_nothing_but_rounding() -> None:
    alike("cpu", Execution(channels_last=True), 1 - 1e-6, 1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["shi2021", "fast"])
def test_on_a_gpu(precision: str, compiled: bool, name: str) -> None:
    execution = Execution.of("cuda", precision, compiled).try_compiling("cuda")
    assert execution.compiled == compiled, execution.note
    alike("cuda", execution, 0.999, 0.02, name)
    one, samples = run(execution, "cuda", name), batch("cuda")
    with torch.cuda.device(0):
        one.step(0, *samples)  # compiles, and may wait for the device
        torch.cuda.set_sync_debug_mode("error")
        try:
            one.step(1, *samples)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("wrong", [True, False])
def test_a_compiler_that_is_wrong_is_noticed_and_not_followed(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of PyTorch 2.11 was, which gave this loss another gradient; the right one is kept."""

    def compiled(self: Execution, function: Callable[..., Terms], device: torch.device) -> Callable[..., Terms]:
        if not self.compiled:
            return function

        def call(*args: Any, **kwargs: Any) -> Terms:
            calls.append(1)
            terms = function(*args, **kwargs)
            return replace(terms, loss=-terms.loss) if wrong else terms

        return call

    calls: list[int] = []
    monkeypatch.setattr(Execution, "compile", compiled)
    x, y = batch(n=96)
    short = recipe("shi2021", input_shape=(2, 8, 8), n_train=96, epochs=3, batch_size=32, warmup_start=2)
    task = Task(conv_net(), Loader(x, y, batch_size=32, seed=0), short, Fraction(1, 50))
    events = list(train(task, execution=Execution(compiled=True)))
    eager = list(train(task, execution=Execution()))
    noticed = [e.reason for e in events if isinstance(e, Fallback)]
    assert len(noticed) == wrong
    assert all("compile" in reason for reason in noticed)
    # Once to compare; then in every step of two epochs and once more to compare, or never again. The epoch before the ramp is
    # never compiled.
    assert len(calls) == 1 + (0 if wrong else 2 * 3 + 1)
    for one, other in zip(events[-1].network.graph.parameters(), eager[-1].network.graph.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_step_sees_tf32_and_nothing_else_does() -> None:
    """Not a listener between steps, not the accuracy shown, not whoever comes after a step that failed."""
    before, flags = [f.allow_tf32 for f in FLAGS], []
    one = run(Execution("tf32"))
    inner = one.objective.compiled

    def spy(*args: object, **kwargs: object) -> object:
        flags.append([f.allow_tf32 for f in FLAGS])
        return inner(*args, **kwargs)

    one.objective.compiled = spy
    one.step(0, *batch())
    assert flags == [[True, True]]
    assert [f.allow_tf32 for f in FLAGS] == before
    one.objective.compiled = None
    with pytest.raises(TypeError):
        one.step(1, *batch())
    assert [f.allow_tf32 for f in FLAGS] == before

    x, y = batch(n=64)
    loader = Loader(x, y, batch_size=32, seed=0)
    short = recipe(input_shape=(2, 8, 8), n_train=64, epochs=2, batch_size=32)
    events = []
    for event in train(Task(conv_net(), loader, short, Fraction(1, 50), (x, y)), execution=Execution("tf32")):
        events.append(type(event))
        assert [f.allow_tf32 for f in FLAGS] == before
    assert {Started, Epoch} <= set(events)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_accuracy_is_measured_in_float32(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, flags = run(Execution(precision)), []

    def spy(*arguments: Any) -> tuple[float, float]:
        flags.append([*(f.allow_tf32 for f in FLAGS), torch.is_autocast_enabled("cpu")])
        return accuracies(*arguments)

    monkeypatch.setattr("pipeline.train.step.accuracies", spy)
    one.step(0, *batch())
    one.record(batch())
    assert flags
    assert not any(map(any, flags))


def test_what_a_device_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="TF32"):
        Execution.of("cpu", "tf32")
    assert Execution.of("cpu") == Execution.default("cpu") == Execution()
    assert Execution.default("cuda", 4_999) == Execution("tf32", channels_last=True)
    assert Execution.of("cuda", steps=5_000) == Execution("tf32", compiled=True, channels_last=True)
    assert not Execution.of("cuda", compiled=False, steps=5_000).compiled
    assert not Execution.default("cpu", 5_000).compiled


def test_without_a_compiler_steps_are_not_compiled_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    execution = Execution.of("cpu", compiled=True).try_compiling("cpu")
    assert not execution.compiled
    assert "no C++ compiler" in execution.describe()
    assert "not one graph" in Execution.of("cpu", compiled=True).try_compiling("cpu", whole=False).describe()


@pytest.mark.parametrize("classes", [2, 5])
def test_margins_by_pairs_are_those_of_the_forms(classes: int) -> None:
    network = mlp(6, 9, classes).double()
    top, generator = head(network.plan()), torch.Generator().manual_seed(1)
    center, radius = (torch.rand(7, 9, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    labels = torch.randint(0, classes, (7,), generator=generator)
    hidden, logits = Lockstep(center, center, radius), network.graph.n3(center)
    values = [hidden, hidden, hidden, Lockstep(logits, logits, torch.zeros_like(logits))]
    boxes = [Interval(v.center, v.radius) for v in values]
    got, want = lockstep_margins(top, values, labels), margins(top, boxes, labels)
    assert torch.allclose(got, want, rtol=1e-12)
    inputs = (center, radius, *network.graph.n3.parameters())
    weights = torch.randn_like(want)
    grads = (torch.autograd.grad((v * weights).sum(), inputs) for v in (got, want))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*grads, strict=True))
