"""Where a run stands, in one file: replaced atomically, loadable without unpickling code, refused by a different run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim

from pipeline.atomic import replace_atomically
from pipeline.errors import EnvironmentFailure, UsageError, out_of_memory
from pipeline.train.average import Average

VERSION = 1


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings and containers of them) so that a reader sees the old file or the new one.

    Raises EnvironmentFailure where the disk refuses.
    """
    # In memory first: of a file that it cannot write, torch's archive says nothing that one could act on.
    content = io.BytesIO()
    torch.save({"version": VERSION, **state}, content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, content.getvalue())
    except OSError as error:
        raise EnvironmentFailure(f"the checkpoint {path} cannot be written: {error.strerror or error}.") from None


def load(path: Path, configuration: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state left by the same command, on the CPU, or None where there is none.

    Raises UsageError where the file is not a checkpoint, or was left by a run of another configuration (naming what
    differs).
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EnvironmentFailure(f"the checkpoint {path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # what a damaged archive raises depends on where it is damaged
        if out_of_memory(error):
            raise
        raise UsageError(f"{path} is not a checkpoint of this program; move it away to start anew.") from None
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise UsageError(f"{path} is not a checkpoint of this version; move it away to start anew.")
    theirs, ours = state["configuration"], dict(configuration)
    differ = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    if differ:
        told = ", ".join(f"{k} was {_short(theirs.get(k))} and is {_short(ours.get(k))}" for k in differ)
        raise UsageError(
            f"{path} was left by a different run: {told}. Run the same command to go on, or move the checkpoint away to "
            "start anew."
        )
    return state


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."


def snapshot(model: nn.Module, optimiser: optim.Optimizer, average: Average | None = None) -> dict[str, Any]:
    """What a run needs to go on besides its position: weights, statistics, their mean, optimiser, random numbers."""
    found = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "rng": torch.get_rng_state()}
    if average is not None:
        found["average"] = average.state()
    if torch.cuda.is_available():
        found["cuda_rng"] = torch.cuda.get_rng_state_all()
    return found


def restore(
    state: Mapping[str, Any], model: nn.Module, optimiser: optim.Optimizer, average: Average | None = None
) -> None:
    """Undo ``snapshot`` in place."""
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    if average is not None:
        average.restore(state["average"])
    torch.set_rng_state(state["rng"])
    if torch.cuda.is_available() and len(state.get("cuda_rng", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
