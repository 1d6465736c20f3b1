"""Events of a run on the terminal: notes and progress on standard error, the result on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

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
from rich.text import Text

from pipeline import certify, train
from pipeline.cli import summary
from pipeline.cli.ending import leads
from pipeline.render import before_after, markdown, panel
from pipeline.report import clean, dump
from pipeline.workflow import Done, Note

COLUMNS = f"{'epoch':^9}{'eps':>9}{'natural':>9}{'robust':>9}{'tight':>8}{'balance':>8}{'held-out':>11}{'certified':>11}{'s':>8}"
LABELS = {
    "prediction": "ONNX Runtime on every sample",
    "pgd": "PGD on every correct sample",
    "ibp": "IBP on every sample",
    "long pgd": "longer PGD on what is open",
    **{name: f"{name} on what is open" for name in ("crown-ibp", "crown", "alpha-crown")},
}
SHORTEN = {"pgd": "--no-attack skips it", "long pgd": "--no-attack skips it"}


def consoles() -> tuple[Console, Console]:
    """(standard output, standard error), silent in all but the first process of a run; rich honours ``NO_COLOR``."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 100
    return Console(width=width), Console(stderr=True, width=width, quiet=not leads())


class Watch:
    """Shows events as they come and returns the last one; bars appear on a terminal only."""

    def __init__(self, errors: Console):
        self.errors = errors
        self.tasks: dict[str, TaskID] = {}
        self.announced: set[str] = set()
        self.steps_per_epoch = self.epochs = 0
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
        )

    def __call__(self, events: Iterable[Any]) -> Done:
        with self.bars:
            for event in events:
                if isinstance(event, Done):
                    return event
                self.show(event)
        raise AssertionError("a run ends with Done")

    def show(self, event: Any) -> None:
        """One event: a note is a line, progress moves a bar."""
        if isinstance(event, Note):
            self.errors.print(
                f"{'warning' if event.warning else 'note'}: {clean(event.text)}", markup=False, highlight=False
            )
        elif isinstance(event, certify.Progress):
            self._advance(event)
        elif isinstance(event, train.Started):
            self._started(event)
        elif isinstance(event, train.Batch):
            loss = f"loss {float(event.loss):.3f}"
            self.bars.update(self.tasks["train"], completed=self._steps(event), loss=loss)
        elif isinstance(event, train.Epoch):
            self._epoch(event)

    def _advance(self, event: certify.Progress) -> None:
        if event.phase not in self.tasks:
            label = LABELS.get(event.phase, event.phase)
            if event.seconds is not None and event.seconds > 2 and event.phase not in self.announced:
                self.announced.add(event.phase)
                shorter = SHORTEN.get(event.phase, "--time-budget ends it early")
                self.errors.print(f"note: {label}: at most about {event.seconds:.0f} s ({shorter})", highlight=False)
            self.tasks[event.phase] = self.bars.add_task(label, total=event.total, loss="")
        self.bars.update(self.tasks[event.phase], completed=event.done, total=event.total)
        if event.done >= event.total:
            self.bars.remove_task(self.tasks.pop(event.phase))

    def _started(self, event: train.Started) -> None:
        self.steps_per_epoch, self.epochs = event.steps_per_epoch, event.epochs
        done = 0 if event.resumed_at is None else event.resumed_at[0] * event.steps_per_epoch + event.resumed_at[1]
        if done:
            self.errors.print(
                f"note: going on from the checkpoint, {done} of {event.total_steps} steps done", highlight=False
            )
        self.tasks["train"] = self.bars.add_task("training", total=event.total_steps, completed=done, loss="")
        self.errors.print(Text(COLUMNS, style="dim"))

    def _steps(self, event: train.Batch) -> int:
        return (event.epoch - 1) * self.steps_per_epoch + event.step

    def _epoch(self, event: train.Epoch) -> None:
        r = event.record
        self.bars.update(self.tasks["train"], completed=int(r["epoch"]) * self.steps_per_epoch)
        if int(r["epoch"]) == self.epochs:
            self.bars.remove_task(self.tasks.pop("train"))
        every = 1 if self.errors.is_terminal else max(1, self.epochs // 20)
        if int(r["epoch"]) % every and int(r["epoch"]) != self.epochs:
            return
        held = "".join(f"{100 * r[k]:9.2f} %" if k in r else f"{'–':>11}" for k in ("held_natural", "held_certified"))
        line = f"{int(r['epoch']):>4}/{self.epochs:<4}{r['eps']:9.6f}{r['natural']:9.3f}{r['robust']:9.3f}"
        line += f"{r['tightness']:8.3f}{r['balance']:8.4f}{held}{r['seconds']:8.1f}"
        self.errors.print(line, highlight=False, markup=False)


def present(done: Done, style: str, out: Console) -> int:
    """Print the result, as JSON alone or as a panel, and return the exit code; of several processes, one prints."""
    if not done.leads:
        return done.exit_code
    summary.append(markdown(done.report))
    if style == "json":
        sys.stdout.write(dump(done.report))
        return done.exit_code
    if done.report.kind == "retraining":
        out.print(before_after(done.report))
    out.print(panel(done.report, folder=done.folder))
    return done.exit_code
