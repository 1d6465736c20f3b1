"""Training spread over processes learns what one process learns: every loss, every statistic, every weight."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.core.network import Network
from pipeline.data import Augment, Loader
from pipeline.distributed.group import SINGLE, ProcessGroup
from pipeline.errors import PipelineError
from pipeline.system.seal import Seal
from pipeline.train import Checkpoint, Finished, recipe, train
from pipeline.train.held_out import accuracies
from pipeline.train.step import Trainer
from pipeline.train.task import Task, prepare
from tests.nets import conv_net, residual_concat_net
from tests.process_groups import together

EPS = Fraction(1, 20)
# Not divisible by three, nor by two.
BATCH = 17
RECIPES: dict[str, dict[str, Any]] = {
    "shi2021": {},
    "fast": {},
    "fast in parts": {"recipe": "fast", "micro_batch": 3, "reg_weight": 0.5, "l1": 1e-4},
    "mtl-ibp": {},
    "crown-ibp": {},
    "vanilla-ibp": {},
    "pgd": {},
}


def images(network: Network, n: int = 51) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, *network.inputs[0].shape[1:], generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (n,), generator=generator)


def first_steps(group: ProcessGroup, name: str, *, compiled: bool = False) -> dict[str, Any]:
    """Two epochs of three steps, the second in the ramp: totals after each step, and all that a step changes."""
    overrides = dict(RECIPES[name])
    network = residual_concat_net().to(torch.float64)
    x, y = images(network)
    short = {"epochs": 3, "batch_size": BATCH, "warmup_start": 2, "warmup_length": 2, "ema": 0.9}
    settings = recipe(overrides.pop("recipe", name), input_shape=x.shape[1:], n_train=len(x), **(short | overrides))
    batches = Loader(x, y, batch_size=BATCH, seed=0, augment=Augment(1, True))
    run = Trainer(prepare(Task(network, batches, settings, EPS)), len(batches), settings, EPS, 0.0, 1.0, group=group)
    if compiled:
        run.objective.compiled = torch.compile(run.objective.eager, fullgraph=True, backend="aot_eager")
    totals = []
    for epoch in (1, 2):
        run.begin(epoch)
        for i, (xs, ys) in enumerate(batches.epoch(epoch)):
            run.step(i, xs, ys)
            totals.append(run.totals.clone())
    assert run.average is not None
    return {
        "totals": torch.stack(totals),
        "state": dict(run.model.state_dict()),
        "mean": dict(run.average.mean),
        "held": torch.tensor(accuracies(run.model, run.margins, *images(network, 7), float(EPS), 0.0, 1.0, group)),
    }


def of_all(group: ProcessGroup) -> dict[str, dict[str, Any]]:
    return {name: first_steps(group, name) for name in RECIPES}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return of_all(SINGLE)


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_several_processes_learn_what_one_learns(alone: dict[str, dict[str, Any]], world: int, tmp_path: Path) -> None:
    everyone = together(of_all, world, tmp_path)
    for name, one in alone.items():
        first = everyone[0][name]
        assert one["totals"][-1, 0] > 0
        torch.testing.assert_close(first["totals"], one["totals"], rtol=1e-8, atol=1e-8, msg=name)
        torch.testing.assert_close(first["state"], one["state"], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(first["mean"], one["mean"], rtol=1e-6, atol=1e-8)
        assert torch.equal(first["held"], one["held"])
        for other in everyone[1:]:
            for part in ("totals", "held"):
                assert torch.equal(other[name][part], first[part])
            for part in ("state", "mean"):
                assert all(torch.equal(other[name][part][k], first[part][k]) for k in first[part])


def compiled(group: ProcessGroup) -> dict[str, Any]:
    return first_steps(group, "shi2021", compiled=True)


@pytest.mark.slow
def test_a_compiled_step_meets_the_others_within_one_graph(alone: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for result in together(compiled, 2, tmp_path):
        torch.testing.assert_close(result["totals"], alone["shi2021"]["totals"], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(result["state"], alone["shi2021"]["state"], rtol=1e-6, atol=1e-8)


def run(
    group: ProcessGroup,
    checkpoint: Path,
    *,
    stop_after: int | None = None,
    batch_size: int = BATCH,
    spoilt: bool = False,
) -> Any:
    """The end of a short run by ``group``, one of whose processes, the last, is asked to stop after some batches."""
    network = conv_net().to(torch.float64)
    x, y = images(network)
    x[7] = float("nan") if spoilt else x[7]
    settings = recipe(
        "fast",
        input_shape=x.shape[1:],
        n_train=len(x),
        **{"epochs": 3, "batch_size": batch_size, "warmup_start": 1, "warmup_length": 1},
    )
    remaining = (
        iter(range(stop_after))
        if stop_after is not None and group.rank == group.world_size - 1
        else itertools.repeat(0)
    )
    batches = Loader(x, y, batch_size=batch_size, seed=0)
    stop = {"should_stop": lambda: next(remaining, None) is None}
    kept = Checkpoint(checkpoint, Seal(bytes(32)))
    task = Task(network, batches, settings, EPS, images(network, 7))
    *_, last = train(task, checkpoint=kept, group=group, **stop)
    assert isinstance(last, Finished)
    return {"state": dict(last.network.state_dict()), "loss": [r["loss"] for r in last.history]}


def fetched(file: Path) -> int:
    """What a download leaves, made where it is not there: the processes that have made it."""
    if not file.exists():
        time.sleep(0.2)
        with file.open("a") as once:
            once.write("made\n")
    return len(file.read_text().splitlines())


def failure(work: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """How it ends: the exit code, and why."""
    try:
        work(*arguments, **options)
    except PipelineError as error:
        return f"{error.exit_code} {error}"
    return "0"


def endings(group: ProcessGroup, folder: Path) -> dict[str, Any]:
    """A run that is stopped, goes on and ends; one that cannot begin; and what is left of the group when one process goes."""
    ends: dict[str, Any] = {"fetched": group.on_each(lambda: fetched(folder / "once"), first_alone=True)}
    ends |= {"too few": failure(run, group, folder / "few", batch_size=2)}
    ends["spoilt"] = failure(run, group, folder / "spoilt", spoilt=True)
    ends["stopped"] = failure(run, group, folder / "many", stop_after=4)
    ends |= run(group, folder / "many")
    ends["taken over"] = run(group, folder / "one")
    if group.rank < group.world_size - 1:
        ends["gone"] = failure(group.any, False)
    return ends


def test_a_run_ends_alike_for_all_and_goes_on_with_any_number_of_processes(tmp_path: Path) -> None:
    assert failure(run, SINGLE, tmp_path / "one", stop_after=4).startswith("75 ")
    everyone = together(endings, 3, tmp_path, tmp_path)
    one = run(SINGLE, tmp_path / "whole")
    for ends in everyone:
        assert ends["fetched"] == 1, "by one process"
        assert ends["too few"].startswith("2 each process needs a sample")
        assert ends["spoilt"].startswith("6 the loss of epoch 1 is not finite")
        assert "mend the data" in ends["spoilt"], "whichever process the sample is with"
        assert ends["stopped"].startswith("75 training was stopped in epoch 2"), "asked of one process, done by all"
        for result in (ends, ends["taken over"]):
            assert result["loss"] == pytest.approx(one["loss"], rel=1e-8)
            torch.testing.assert_close(result["state"], one["state"], rtol=1e-6, atol=1e-8)
            assert all(torch.equal(v, everyone[0]["state"][k]) for k, v in ends["state"].items())
    assert all(ends["gone"].startswith("74 another process") for ends in everyone[:2])
