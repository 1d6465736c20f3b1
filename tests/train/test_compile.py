"""One training step is one graph: torch.compile enters it whole, in a process without the shape checks of this suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.train.execution import PRECISIONS, cannot_compile

SCRIPT = """
import sys
import torch
from pipeline.bounds.margins import head
from pipeline.train import insert, recipe
from pipeline.train.objective import Objective
from pipeline.train.terms import Phase, Schedule
from tests.nets import residual_concat_net
from tests.train.test_losses import preactivated

torch.set_num_threads(1)
model = insert(residual_concat_net()) if sys.argv[1] == "shi2021" else preactivated()
model.train()
x, y = torch.rand(6, *model.inputs[0].shape[1:]), torch.tensor([0, 1, 2, 3, 0, 1])
top, made = head(model.plan()), recipe(sys.argv[1], input_shape=x.shape[1:], n_train=60)
assert made.one_graph
loss, draw = Objective(model, made).__call__, torch.rand(x.shape)
steps = {True: torch.compile(loss, fullgraph=True, backend="aot_eager"), False: loss}
phase, state, got = Phase(robust=True, tightness=True, balance=True), model.state_dict(), {}
state = {k: v.clone() for k, v in state.items()}
for compiled, step in steps.items():
    for eps in (0.05, 0.1):
        model.load_state_dict(state)
        model.zero_grad()
        now = Schedule(*map(torch.tensor, (eps, 0.3, 0.2, 0.5)))
        terms = step(top, x, y, now, draw, phase=phase)
        terms.loss.backward()
        grads = [p.grad.clone() for p in model.parameters()]
        got[compiled] = [terms.loss.detach(), terms.correct, *grads, *(b.clone() for b in model.buffers())]
assert all(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5) for a, b in zip(got[True], got[False], strict=True))
frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
assert frames == 1, f"{frames} graphs: another eps must not compile again"
"""


LEARNS = """
import sys
from pipeline.train.execution import Execution
from tests.train.test_execution import alike

execution = Execution.of("cpu", sys.argv[1], True).try_compiling("cpu")
print(execution.describe())
if execution.compiled:
    alike("cpu", execution, 0.999, 0.02, sys.argv[2])
"""


TERMS = """
import sys
import torch
from pipeline.bounds.margins import head
from pipeline.train import insert, recipe
from pipeline.train.execution import Execution
from pipeline.train.objective import Objective
from pipeline.train.terms import Phase, Schedule
from tests.nets import conv_net

device, precision, compiled = torch.device(sys.argv[1]), sys.argv[2], sys.argv[3] == "compiled"
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
x, y = torch.rand(32, 2, 8, 8, generator=generator).to(device), torch.randint(0, 5, (32,), generator=generator).to(device)
start = insert(conv_net()).train()
with torch.no_grad():
    for name, parameter in start.graph.named_parameters():
        if name.endswith("bn.bias"):
            parameter.add_(torch.linspace(0.5, 1.5, len(parameter)))  # more neurons active than inactive
made = recipe("shi2021", input_shape=x.shape[1:], n_train=60)
largest = {"fp32": 1e-3, "tf32": 0.05, "bf16": 0.3}[precision]


def gradients(dtype, execution, phase):
    torch._dynamo.reset()
    model = start.in_float64() if dtype == torch.float64 else start
    model = model.to(device).train()
    execution.place(model)
    loss = execution.compile(Objective(model, made).__call__, device)
    now = Schedule(*(torch.tensor(v, dtype=dtype, device=device) for v in (0.01, 1.0, 0.0, 0.5)))
    with execution.arithmetic(), execution.products(device):
        terms = loss(head(model.plan()), execution.arrange(x.to(dtype)), y, now, None, phase=phase)
    named = dict(model.graph.named_parameters())
    found = torch.autograd.grad(terms.loss, list(named.values()))
    return terms, {name: g.double() for name, g in zip(named, found)}


execution = Execution(precision, compiled=compiled, channels_last=precision != "fp32" or device.type == "cuda")
worst = {}
for name, phase in {
    "robust": Phase(robust=True),
    "tightness": Phase(robust=False, tightness=True),
    "balance": Phase(robust=False, balance=True),
}.items():
    terms, exact = gradients(torch.float64, Execution(), phase)
    assert float(getattr(terms, name)) > 0.01, f"{name} has nothing to say here"
    _, got = gradients(torch.float32, execution, phase)
    # A bias behind which BatchNorm takes the mean away has a gradient of rounding errors alone.
    for parameter, g in exact.items():
        if not parameter.endswith("affine.bias"):
            worst[name, parameter] = float((got[parameter] - g).norm() / g.norm())
print({k: f"{v:.1e}" for k, v in sorted(worst.items(), key=lambda item: -item[1])[:4]})
assert max(worst.values()) < largest, sorted(worst.items(), key=lambda item: -item[1])[:8]
"""


def test_the_gradient_of_every_term_is_that_of_float64() -> None:
    alone(TERMS, "cpu", "fp32", "eager")


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "how"), [("fp32", "compiled"), ("bf16", "eager"), ("bf16", "compiled")])
def test_so_is_the_gradient_of_what_is_compiled_or_less_precise(precision: str, how: str) -> None:
    if cannot_compile("cpu"):
        pytest.skip("compiling does not work here")
    alone(TERMS, "cpu", precision, how)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_so_it_is_on_a_gpu(precision: str, how: str) -> None:
    alone(TERMS, "cuda", precision, how)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shi2021", "fast"])
def test_a_step_with_a_sum_and_a_join_compiles_without_a_break(name: str) -> None:
    """With every BatchNorm beside a layer, and, attacked, with one alone. Over 5 s of CPU each: that is the compiler."""
    alone(SCRIPT, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shi2021", "fast"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_steps_learn_much_the_same(precision: str, name: str) -> None:
    output = alone(LEARNS, precision, name)
    if "not compiled" in output:
        pytest.skip(output)


def alone(script: str, *arguments: str) -> str:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, *arguments]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
