"""The state of a run in one file: replaced whole, authenticated, loaded without running code, refused by a different run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim

from pipeline.errors import EnvironmentFailure, UsageError
from pipeline.system.seal import Foreign, Seal
from pipeline.train.average import Average

VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The file of a run's state, and the seal that authenticates it."""

    path: Path
    seal: Seal

    def save(self, state: Mapping[str, Any]) -> None:
        """Write ``state`` (tensors, numbers, strings and containers of them) so that a reader sees the old file or the new one.

        Raises EnvironmentFailure (74) where the disk refuses.
        """
        # To memory first: where torch cannot write a file, its message does not say why.
        content = io.BytesIO()
        torch.save({"version": VERSION, **state}, content)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.seal.write(self.path, content.getvalue())
        except OSError as error:
            raise EnvironmentFailure(
                f"the checkpoint {self.path} cannot be written: {error.strerror or error}."
            ) from None

    def load(self, configuration: Mapping[str, Any]) -> dict[str, Any] | None:
        """The state that the same command saved, on the CPU, or None where there is no file.

        Raises UsageError (2) where the file is not authenticated, so that somebody else may have written it, or where a run of
        another ``configuration`` saved it (naming what differs); EnvironmentFailure (74) where the disk refuses.
        """
        state = self._read()
        if state is None:
            return None
        if state.get("version") != VERSION:
            raise UsageError(f"{self.path} is not a checkpoint of this version; move it away to start anew.")
        old, new = state["configuration"], dict(configuration)
        differ = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if differ:
            changes = ", ".join(f"{k} was {_short(old.get(k))} and is {_short(new.get(k))}" for k in differ)
            raise UsageError(
                f"{self.path} was left by a different run: {changes}. Run the same command to go on, or move the checkpoint "
                "away to start anew."
            )
        return state

    def _read(self) -> dict[str, Any] | None:
        try:
            content = self.seal.read(self.path)
        except Foreign:
            raise UsageError(
                f"{self.path} carries no authentication code of yours; move it away to start anew."
            ) from None
        except OSError as error:
            raise EnvironmentFailure(f"the checkpoint {self.path} cannot be read: {error.strerror or error}.") from None
        if content is None:
            return None
        # Even an authenticated file runs no code: several machines may share a key.
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."


def snapshot(model: nn.Module, optimiser: optim.Optimizer, average: Average | None = None) -> dict[str, Any]:
    """What a run needs to resume besides its position: weights, statistics, their mean, optimiser, random numbers."""
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "rng": torch.get_rng_state()}
    if average is not None:
        state["average"] = average.state()
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state_all()
    return state


def restore(
    state: Mapping[str, Any], model: nn.Module, optimiser: optim.Optimizer, average: Average | None = None
) -> None:
    """Load a ``snapshot`` into model, optimiser and average, in place, and into PyTorch's random number generators."""
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    if average is not None:
        average.restore(state["average"])
    torch.set_rng_state(state["rng"])
    if torch.cuda.is_available() and len(state.get("cuda_rng", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
