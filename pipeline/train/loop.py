"""The training loop, on one page: it yields events, prints nothing, and selects by the held-out part alone."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline import rules
from pipeline.crew import ALONE, Crew
from pipeline.errors import Diverged, InputRejected, Preempted
from pipeline.network import Network
from pipeline.train import checkpoint as saved
from pipeline.train.diagnosis import diagnosis
from pipeline.train.events import Batch, Epoch, Event, Finished, Record, Started
from pipeline.train.execution import PLAIN, Execution
from pipeline.train.full_bn import fold, insert, placements
from pipeline.train.initialise import reinitialise_
from pipeline.train.recipe import Recipe
from pipeline.train.run import Run
from pipeline.train.sparsity import masks
from pipeline.train.statistics import population_statistics_, start_from_statistics_

SAVE_SHARE = 0.02
"""The share of a run's time that goes into its checkpoints."""


@runtime_checkable
class Batches(Protocol):
    """Training data: the same number of batches ``(x, y)`` of one shape in every epoch, on the device, in pixel units.

    What an epoch holds depends on its number alone, so that an interrupted run sees what an uninterrupted one would.
    """

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, /) -> Iterable[tuple[Tensor, Tensor]]: ...


def train(
    network: Network,
    batches: Batches,
    held: tuple[Float[Tensor, " n *features"], Int[Tensor, " n"]] | None = None,
    *,
    recipe: Recipe,
    eps: Fraction,
    low: float = 0.0,
    high: float = 1.0,
    device: torch.device | str = "cpu",
    checkpoint: saved.Checkpoint | None = None,
    identity: Mapping[str, str] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    execution: Execution = PLAIN,
    crew: Crew = ALONE,
) -> Iterator[Event]:
    """Train a copy of ``network`` after ``recipe`` and yield Started, Batch, Epoch and at last Finished.

    ``eps`` is a fraction of the valid range ``[low, high]`` of the data; ``held`` is watched and never trained on, and with
    ``select = "held-out"`` the epoch that certifies most of it, once eps is whole, is the one delivered. With
    ``checkpoint`` the run is saved at the end of an epoch, as often as takes no more than a fiftieth of the time, and when it
    stops or finishes; the same call goes on from there, to the same result. ``identity`` holds digests of what else must be
    the same (the data, the file). ``should_stop`` is asked after each batch. Each process of a ``crew`` is given the same and
    ends with the same; what is learnt, and the checkpoint, which the first one writes, are those of one process but for
    rounding. Raises InputRejected (3) for a network that cannot be trained, UsageError (2) for another's checkpoint,
    Diverged (6) for a loss that is not finite, Preempted (75) when asked to stop.
    """
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise InputRejected(
            f"training needs one input and one output; this network has {len(network.inputs)} and {len(network.outputs)}: "
            "name the logits with `--output`."
        )
    rules.require(network)
    configuration = {f"recipe.{k}": v for k, v in recipe.model_dump(mode="json").items()} | dict(identity or {})
    configuration |= {"eps": str(eps), "range": [low, high], "steps_per_epoch": len(batches), "model": digest(network)}
    configuration |= {"precision": execution.precision, "channels_last": execution.channels_last}
    state = crew.first(lambda: checkpoint.load(configuration)) if checkpoint is not None else None
    zeros = _masks(network, batches, recipe)
    model = prepare(network, batches, recipe, device=device, fresh=state is None, masks=zeros)
    crew.agree_(model.state_dict().values())
    run = Run(model, len(batches), recipe, eps, low, high, execution=execution, masks=zeros, crew=crew)
    epoch, done, history, best = 1, 0, [], None
    if state is not None:
        saved.restore(state, model, run.optimiser, run.average)
        epoch, done, history, best = state["epoch"], state["step"], state["history"], state["best"]
        run.totals.copy_(state["totals"])

    def save(*, finished: bool = False) -> None:
        if checkpoint is not None and crew.leads:
            where = {"epoch": epoch, "step": done, "finished": finished, "history": history, "totals": run.totals.cpu()}
            where |= {"best": best, "configuration": configuration}
            checkpoint.save(saved.snapshot(model, run.optimiser, run.average) | where)

    found = placements(network, _sample(batches), keep=recipe.bn == "keep") if recipe.full_bn else ()
    resumed = None if state is None else (epoch - 1, done)
    yield Started(recipe.epochs, len(batches), resumed, found, tuple(history))
    often, saved_at, cost = max(1, len(batches) // 20), time.monotonic(), 0.0
    while epoch <= recipe.epochs:
        began, checked = time.monotonic(), done
        run.begin(epoch)
        try:
            for i, (x, y) in enumerate(batches.epoch(epoch)):
                if i < done:
                    continue
                run.step(i, x, y)
                done = i + 1
                if crew.any(should_stop()):
                    run.check()
                    save()
                    raise Preempted(_stopped(epoch, recipe.epochs, checkpoint))
                if done % often == 0:
                    run.check()
                    checked = done
                    yield Batch(epoch, done, run.eps[i], run.totals[0] / done)
            record = run.record(held) | {"seconds": time.monotonic() - began}
        except Diverged as error:
            raise Diverged(f"{error} {diagnosis(run, batches.epoch(epoch), checked)}") from None
        history = [*history, record]
        if recipe.select == "held-out" and epoch >= recipe.warmup_end:
            best = _better(best, record, run)
        run.totals.zero_()
        epoch, done = epoch + 1, 0
        if (now := time.monotonic()) - saved_at >= cost / SAVE_SHARE:
            save()
            saved_at, cost = now, time.monotonic() - now
        yield Epoch(record)
    if state is None or not state["finished"]:
        run.deliver(None if best is None else best["model"])
        if recipe.population_bn:
            # By each process alone: the layers of torch.nn take whole batches, and this is one pass in a whole run.
            population_statistics_(model, (x for x, _ in batches.epoch(epoch)))
        save(finished=True)
    trained = fold(model, keep=recipe.bn == "keep") if recipe.full_bn else copy.deepcopy(model).eval()
    yield Finished(trained.cpu(), tuple(history), recipe.epochs if best is None else best["epoch"])


def prepare(
    network: Network,
    batches: Batches,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    fresh: bool = True,
    masks: Mapping[str, Tensor] | None = None,
) -> Network:
    """The training form of ``network`` on ``device``, as a copy: BatchNorm inserted and weights drawn as ``recipe`` says."""
    keep = recipe.bn == "keep"
    model = insert(network, _sample(batches), keep=keep) if recipe.full_bn else copy.deepcopy(network)
    if fresh and recipe.init == "reinit":
        reinitialise_(model, ibp=recipe.ibp_init, generator=torch.Generator().manual_seed(recipe.seed), masks=masks)
    model.to(device)
    if fresh and recipe.init == "keep":
        start_from_statistics_(model, (x for x, _ in batches.epoch(0)))
    return model


def digest(network: Network) -> str:
    """SHA-256 of a Network: its graph and every tensor in it."""
    sha, plan = hashlib.sha256(), network.plan()
    sha.update(repr([(s.name, repr(s.op), s.args) for s in plan.steps]).encode())
    for name, tensor in network.graph.state_dict().items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _masks(network: Network, batches: Batches, recipe: Recipe) -> dict[str, Tensor]:
    """The zeros that are to stay, under the names that weights have in the training form."""
    if not recipe.keep_sparsity:
        return {}
    return masks(insert(network, _sample(batches), keep=recipe.bn == "keep") if recipe.full_bn else network)


def _better(best: dict[str, Any] | None, record: Record, run: Run) -> dict[str, Any]:
    """The best epoch so far by what it certifies of the held-out part, the later one where two are alike; with its weights."""
    if best is not None and record["held_certified"] < best["held_certified"]:
        return best
    with run.delivered():
        state = {name: tensor.detach().clone() for name, tensor in run.model.state_dict().items()}
    return {"epoch": int(record["epoch"]), "held_certified": record["held_certified"], "model": state}


def _sample(batches: Batches) -> Tensor:
    return next(iter(batches.epoch(1)))[0][:2]


def _stopped(epoch: int, epochs: int, checkpoint: saved.Checkpoint | None) -> str:
    kept = f"{checkpoint.path} holds it, and the same command goes on" if checkpoint else "no checkpoint is kept"
    return f"training was stopped in epoch {epoch} of {epochs}; {kept}."
