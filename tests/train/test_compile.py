"""One training step is one graph: torch.compile enters it whole, in a process without the shape checks of this suite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch
from pipeline.bounds.margins import head
from pipeline.train import insert, recipe
from pipeline.train.objective import Objective, Phase, Schedule
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

execution = Execution.of("cpu", sys.argv[1], True).tried("cpu")
print(execution.describe())
if execution.compiled:
    alike("cpu", execution, 0.999, 0.02, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shi2021", "fast"])
def test_a_step_with_a_sum_and_a_join_compiles_without_a_break(name: str) -> None:
    """With every BatchNorm beside a layer, and, attacked, with one alone. Over 5 s of CPU each: that is the compiler."""
    alone(SCRIPT, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shi2021", "fast"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_steps_learn_much_the_same(precision: str, name: str) -> None:
    told = alone(LEARNS, precision, name)
    if "not compiled" in told:
        pytest.skip(told)


def alone(script: str, *arguments: str) -> str:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
