"""Where a command writes, and what it says while it works: notes and progress, on standard error. Imports no tensors."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline import progress
from pipeline.cli.status import is_first_process
from pipeline.commands.events import Note
from pipeline.methods import ATTACKS, LONG_ATTACK, METHODS, SHORT_ATTACK
from pipeline.results import clean

LABELS = {
    "prediction": "ONNX Runtime on every sample",
    SHORT_ATTACK: "PGD on every correct sample",
    LONG_ATTACK: "longer PGD on what is open",
    **{method.name: method.label for method in METHODS.values()},
}
SHORTEN = dict.fromkeys(ATTACKS, "--no-attack skips it")


def loudness() -> int:
    """-1 where ``--quiet`` was said, 1 where ``--verbose`` was, else 0."""
    context = click.get_current_context(silent=True)
    params = {} if context is None else context.find_root().params
    return bool(params.get("verbose")) - bool(params.get("quiet"))


def consoles() -> tuple[Console, Console]:
    """(standard output, standard error), silent in all but the first process of a run; rich honours ``NO_COLOR``."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 100
    return Console(width=width), Console(stderr=True, width=width, quiet=not is_first_process())


class Bars:
    """Shows notes and progress as they come; bars appear on a terminal only."""

    def __init__(self, errors: Console):
        self.errors = errors
        self.tasks: dict[str, TaskID] = {}
        self.announced: set[str] = set()
        self.started: dict[str, float] = {}
        self.loudness = loudness()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
            disable=self.loudness < 0 or not errors.is_terminal,
        )

    def show(self, event: Any) -> None:
        """One event: a note is a line, progress moves a bar; of others nothing is shown."""
        if isinstance(event, Note) and (event.warning or self.loudness >= 0):
            self.errors.print(
                f"{'warning' if event.warning else 'note'}: {clean(event.text, 1000)}", markup=False, highlight=False
            )
        elif isinstance(event, progress.Progress) and self.loudness >= 0:
            self._advance(event)

    def _advance(self, event: progress.Progress) -> None:
        if event.phase not in self.tasks:
            label = LABELS.get(event.phase, event.phase)
            if event.seconds is not None and event.seconds > 2 and event.phase not in self.announced:
                self.announced.add(event.phase)
                shorter = SHORTEN.get(event.phase, "--time-budget ends it early")
                self.errors.print(f"note: {label}: at most about {event.seconds:.0f} s ({shorter})", highlight=False)
            self.started.setdefault(event.phase, time.monotonic())
            self.tasks[event.phase] = self.bars.add_task(label, total=event.total, loss="")
        self.bars.update(self.tasks[event.phase], completed=event.done, total=event.total)
        if event.done >= event.total:
            self.bars.remove_task(self.tasks.pop(event.phase))
            if self.loudness > 0 and (start := self.started.pop(event.phase, None)) is not None:
                seconds = time.monotonic() - start
                label = LABELS.get(event.phase, event.phase)
                self.errors.print(f"done: {label}: {event.total} in {seconds:.1f} s", highlight=False)
