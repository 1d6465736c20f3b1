"""On a device that is not the CPU everything computes what it computes there, and a training step waits for nothing.

What CUDA adds, its own kernels and their rounding, is for the tests marked ``gpu``.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.bounds.margins import MarginBounds
from pipeline.certify import Strategy
from pipeline.core.interval import Interval, Lockstep
from pipeline.core.linear_form import LinearForm
from pipeline.core.threat import Box
from pipeline.data import Augment, Loader
from pipeline.errors import Preempted
from pipeline.methods import METHODS
from pipeline.rules import rule_for
from pipeline.system.seal import Seal
from pipeline.train import Checkpoint, Finished, Task, insert, recipe, train
from pipeline.train.execution import PLAIN, Execution
from pipeline.train.recipes import GIVEN, NAMES
from pipeline.train.step import Trainer
from tests import elsewhere
from tests.bounds.test_soundness import NETS, region
from tests.certify import test_ladder
from tests.cli.conftest import here, pipeline  # noqa: F401
from tests.nets import conv_net
from tests.onnx.files import digests
from tests.rules.test_laws import EXAMPLES, FLOAT32, drawn
from tests.selection import everything
from tests.train.test_loop import data, same

pytestmark = pytest.mark.skipif(not elsewhere.AVAILABLE, reason="this PyTorch has no devices made in Python")


@pytest.fixture
def there() -> Iterator[str]:
    with elsewhere.usable() as device:
        yield device


def test_the_device_refuses_and_counts_what_a_gpu_does(there: str) -> None:
    x, mask = torch.arange(4.0, device=there), torch.tensor([True, False, True, True], device=there)
    stay = torch.ones(4)
    assert (x + 1.5).device.type == there
    assert not elsewhere.waits.keys() - {"copy"}
    for mix in (lambda: x + stay, lambda: x @ stay, lambda: torch.cat([x, stay]), lambda: x[torch.tensor([0]).cpu()]):
        with pytest.raises(RuntimeError, match="one device"):
            mix()
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    asks: dict[str, Callable[[], object]] = {
        "_local_scalar_dense": lambda: x.sum().item(),
        "equal": lambda: torch.equal(x, x),
        "index": lambda: x[mask],
        "nonzero": lambda: mask.nonzero(),
        "copy": lambda: x.cpu(),
        "tolist": lambda: x.tolist(),
    }
    for name, ask in asks.items():
        elsewhere.waits.clear()
        ask()
        assert dict(elsewhere.waits) == {name: 1}
    elsewhere.waits.clear()
    with pytest.raises(RuntimeError, match=r"Boolean value|ambiguous"):
        bool(x > 1)
    assert bool((x > -1).all())
    assert elsewhere.waits


def test_autocast_casts_as_cuda_does(there: str) -> None:
    x, w = (torch.rand(3, 3, device=there) for _ in range(2))
    with torch.autocast(there, torch.bfloat16):
        low = x @ w
        assert (low.dtype, low.exp().dtype, low.sum().dtype) == (torch.bfloat16, torch.float32, torch.float32)
        assert nn.functional.relu(low).dtype == torch.bfloat16


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_rule(there: str, name: str) -> None:
    op, inputs, _, values = drawn(name, "wide")
    op = copy.deepcopy(op).requires_grad_(False)
    rule, (op_there, inputs_there) = rule_for(op), (copy.deepcopy(op).to(there), to(inputs))
    a, b = rule.interval(op, *inputs, rounding=FLOAT32), rule.interval(op_there, *inputs_there, rounding=FLOAT32)
    assert same_tensors((a.center, a.radius), (b.center, b.radius))
    a, b = rule.lockstep(op, *steps(inputs)), rule.lockstep(op_there, *steps(inputs_there))
    assert same_tensors((a.clean, a.center, a.radius), (b.clean, b.center, b.radius))
    lines, lines_there = (rule.relax(o, *xs, rounding=FLOAT32) for o, xs in ((op, inputs), (op_there, inputs_there)))
    assert (lines is None) == (lines_there is None)
    if lines is None or lines_there is None:
        return
    coeff = torch.randn(5, *values[0].shape, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    const = torch.zeros(5, len(values[0]), dtype=torch.float64)
    got = (
        lines.pull_back(LinearForm(coeff, const), None),
        lines_there.pull_back(LinearForm(coeff.to(there), const.to(there)), None),
    )
    for one, other in zip(*got, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert same_tensors((one.coeff, one.const), (other.coeff, other.const))


def to(inputs: Any) -> list[Any]:
    return [
        Interval(x.center.to(elsewhere.NAME), x.radius.to(elsewhere.NAME))
        if isinstance(x, Interval)
        else x.to(elsewhere.NAME)
        for x in inputs
    ]


def steps(inputs: Any) -> list[Any]:
    return [Lockstep(x.center, x.center, x.radius) if isinstance(x, Interval) else x for x in inputs]


def same_tensors(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    assert all(t.device.type == elsewhere.NAME for t in theirs)
    return all(
        torch.allclose(a, b.cpu(), rtol=1e-12, atol=1e-12, equal_nan=True) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("name", [pytest.param("residual-concat", marks=pytest.mark.slow), "no-tail"])
def test_every_method(there: str, name: str) -> None:
    found = []
    for device in ("cpu", there):
        network = NETS[name](seed=21).in_float64().to(device)
        _, box = region(network, "8/255", seed=22, device=device)
        labels = torch.tensor([0, 1, 2]).to(device)
        found.append([MarginBounds(network, FLOAT32, method=m).rows(Box(box), labels) for m in METHODS])
    for here_, there_ in zip(*found, strict=True):
        assert same_tensors((here_,), (there_,))


def test_verdicts(there: str) -> None:
    network = conv_net(seed=5)
    whole, moved_ = (
        test_ladder.run(network, n=6, settings=Strategy(device=d, method="crown-ibp")) for d in ("cpu", there)
    )
    assert (whole.verdict == moved_.verdict).all()
    assert (whole.survived == moved_.survived).all()
    assert np.array_equal(whole.margin_lower, moved_.margin_lower, equal_nan=True)


def batch(device: str, n: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, 2, 8, 8, generator=generator), torch.randint(0, 5, (n,), generator=generator)
    return x.to(device), y.to(device)


def stepped(name: str, device: str, execution: Execution = PLAIN, **more: Any) -> Trainer:
    """A run on the ramp, after two steps, of which the second is counted."""
    asked = recipe(
        name, input_shape=(2, 8, 8), n_train=320, batch_size=32, warmup_length=2, warmup_start=1, epochs=4, **more
    )
    teacher = conv_net(seed=1).to(device).eval() if asked.teacher == GIVEN else None
    model = insert(conv_net()).to(device)
    one = Trainer(model, 10, asked, Fraction(1, 50), 0.0, 1.0, execution=execution, teacher=teacher)
    one.begin(2)
    one.step(0, *batch(device))
    second = batch(device)
    elsewhere.waits.clear()
    one.step(1, *second)
    return one


def gradient(one: Trainer) -> Tensor:
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in one.parameters)
    return torch.cat([p.grad.flatten().cpu() for p in one.parameters])


STEPS = {name: (name, {}) for name in NAMES} | {"micro-batches": ("fast", {"micro_batch": 8})}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_for_nothing_and_is_that_of_the_cpu(
    there: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.train.step.FUSED", ("cpu", there))
    method, more = STEPS[name]
    one, other = stepped(method, there, **more), stepped(method, "cpu", **more)
    assert not elsewhere.waits
    a, b = gradient(one), gradient(other)
    assert float((a - b).norm()) <= 1e-4 * float(b.norm())
    assert torch.allclose(one.totals.cpu(), other.totals, rtol=1e-5)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_in_bfloat16_waits_for_nothing_and_learns_much_the_same(there: str, name: str) -> None:
    method, more = STEPS[name]
    one, other = stepped(method, there, Execution("bf16", channels_last=True), **more), stepped(method, "cpu", **more)
    assert not elsewhere.waits
    assert float(torch.cosine_similarity(gradient(one), gradient(other), dim=0)) > 0.95
    assert torch.allclose(one.totals[:5].cpu(), other.totals[:5], rtol=0.02)


def test_a_step_that_asks_for_a_value_is_caught(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Trainer.reduce
    monkeypatch.setattr(Trainer, "reduce", lambda self, terms, part: whole(self, terms, part) * (terms.loss.item() > 0))
    stepped("shi2021", there)
    assert elsewhere.waits == {"_local_scalar_dense": 1}


def trained(device: str, checkpoint: Path | None = None, stop: int | None = None, **settings: Any) -> Finished:
    x, y = data(conv_net())
    asked = recipe(
        "fast",
        input_shape=x.shape[1:],
        n_train=len(x),
        epochs=4,
        batch_size=16,
        warmup_start=2,
        warmup_length=1,
        **settings,
    )
    loader = Loader(x, y, batch_size=16, seed=0, augment=Augment(2, True), device=device)
    held = tuple(v[:32].to(device) for v in data(conv_net(), 48))
    count = iter(range(10**6))
    stopping = (lambda: next(count) == stop) if stop is not None else (lambda: False)
    *_, last = train(
        Task(conv_net(), loader, asked, Fraction(1, 20), held),
        device=device,
        checkpoint=None if checkpoint is None else Checkpoint(checkpoint, Seal(bytes(32))),
        should_stop=stopping,
    )
    assert isinstance(last, Finished)
    return last


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"select": "held-out", "keep_sparsity": True, "bn": "keep", "micro_batch": 8},
    ],
)
def test_a_whole_run_stopped_and_gone_on_with(
    there: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setattr("pipeline.train.step.FUSED", ("cpu", there))
    moves = [(there, "cpu"), ("cpu", there), *([(there, there)] if everything(pytestconfig) else [])]
    want = trained("cpu", **settings).network
    for first, then in moves:
        (tmp_path / "run.pt").unlink(missing_ok=True)
        with pytest.raises(Preempted):
            trained(first, tmp_path / "run.pt", 14, **settings)
        assert same(trained(then, tmp_path / "run.pt", **settings).network, want), f"{first}, then {then}"


@pytest.fixture
def everywhere(there: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sends commands to a device."""
    monkeypatch.setattr("pipeline.train.step.FUSED", ("cpu", there))

    def send(device: str) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("pipeline.") and hasattr(module, "device_of"):
                monkeypatch.setattr(module, "device_of", lambda _: device)

    return send


@pytest.mark.slow
def test_commands(everywhere: Callable[[str], None], there: str, pipeline: Any, here: Path) -> None:  # noqa: F811
    data_, certify = ("--data", "digits", "--eps", "0.05"), ("--method", "ibp", "--format", "json")
    few = ("--max-samples", "8")
    box = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} 0.4))(assert (<= X_{i} 0.401))" for i in range(64))
    outputs = "".join(f"(declare-const Y_{i} Real)" for i in range(10))
    (here / "p.vnnlib").write_text(outputs + box + "(assert (>= Y_0 100))")
    found = []
    for device in ("cpu", there):
        everywhere(device)
        elsewhere.waits.clear()
        out = f"{device}.onnx"
        code, _, err = pipeline("retrain", "model.onnx", *data_, *few, "--epochs", "2", "--out", out)
        assert code == 0, err
        code, text, err = pipeline("certify", out, *data_, *few, *certify)
        assert code == 0, err
        code, decided, err = pipeline("certify", out, "--property", "p.vnnlib", *certify)
        assert code == 0, err
        found.append(
            (digests(here / out).sha256, json.loads(text)["result"]["levels"], json.loads(decided)["result"]["verdict"])
        )
        assert bool(elsewhere.waits) == (device == there)
    assert found[0] == found[1]
    assert found[0][2] == "holds"
