"""Training for certified robustness: the three ideas, the schedule, the loss and the loop.

Each name is imported at its first use: recipes need no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.train.checkpoint import Checkpoint as Checkpoint
    from pipeline.train.events import BatchDone as BatchDone
    from pipeline.train.events import Epoch as Epoch
    from pipeline.train.events import Event as Event
    from pipeline.train.events import Fallback as Fallback
    from pipeline.train.events import Finished as Finished
    from pipeline.train.events import Record as Record
    from pipeline.train.events import Started as Started
    from pipeline.train.execution import Execution as Execution
    from pipeline.train.full_bn import Placement as Placement
    from pipeline.train.full_bn import fold as fold
    from pipeline.train.full_bn import insert as insert
    from pipeline.train.full_bn import placements as placements
    from pipeline.train.hyperparameters import Recipe as Recipe
    from pipeline.train.layers import masks as masks
    from pipeline.train.loop import train as train
    from pipeline.train.recipes import DEFAULT as DEFAULT
    from pipeline.train.recipes import GIVEN as GIVEN
    from pipeline.train.recipes import NAMES as NAMES
    from pipeline.train.recipes import as_toml as as_toml
    from pipeline.train.recipes import describe as describe
    from pipeline.train.recipes import recipe as recipe
    from pipeline.train.task import Batches as Batches
    from pipeline.train.task import Task as Task

_WHERE = {
    **dict.fromkeys(("BatchDone", "Epoch", "Event", "Fallback", "Finished", "Record", "Started"), "events"),
    **dict.fromkeys(("Placement", "fold", "insert", "placements"), "full_bn"),
    **dict.fromkeys(("DEFAULT", "GIVEN", "NAMES", "as_toml", "describe", "recipe"), "recipes"),
    **dict.fromkeys(("Batches", "Task"), "task"),
    "Checkpoint": "checkpoint",
    "Execution": "execution",
    "Recipe": "hyperparameters",
    "masks": "layers",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
