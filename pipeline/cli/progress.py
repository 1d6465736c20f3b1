"""Events of a run on the terminal: notes and progress on standard error, the result on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline import train
from pipeline.cli import summary
from pipeline.cli.bars import Bars, consoles, loudness
from pipeline.commands import Done
from pipeline.render import before_after, markdown, panel
from pipeline.results import clean, dump

__all__ = ["Watch", "consoles", "present"]

COLUMNS = f"{'epoch':^9}{'eps':>9}{'natural':>9}{'robust':>9}{'tight':>8}{'balance':>8}{'held-out':>10}{'certified':>10}{'s':>8}"


class Watch(Bars):
    """Shows training too, and returns the last event."""

    def __init__(self, errors: Console):
        super().__init__(errors)
        self.steps_per_epoch = self.epochs = 0

    def __call__(self, events: Iterable[Any]) -> Done:
        with self.bars:
            for event in events:
                if isinstance(event, Done):
                    return event
                self.show(event)
        raise AssertionError("a run ends with Done")

    def show(self, event: Any) -> None:
        """One event: as ``Bars`` shows it, and a line for each epoch."""
        if self.loudness < 0:
            super().show(event)
        elif isinstance(event, train.Started):
            self._started(event)
        elif isinstance(event, train.BatchDone):
            loss = f"loss {float(event.loss):.3f}"
            self.bars.update(self.tasks["train"], completed=self._steps(event), loss=loss)
        elif isinstance(event, train.Epoch):
            self._epoch(event)
        else:
            super().show(event)

    def _started(self, event: train.Started) -> None:
        self.steps_per_epoch, self.epochs = event.steps_per_epoch, event.epochs
        done = 0 if event.resumed_at is None else event.resumed_at[0] * event.steps_per_epoch + event.resumed_at[1]
        if done:
            self.errors.print(
                f"note: going on from the checkpoint, {done} of {event.total_steps} steps done", highlight=False
            )
        self.tasks["train"] = self.bars.add_task("training", total=event.total_steps, completed=done, loss="")
        self.errors.print(Text(COLUMNS, style="dim"))

    def _steps(self, event: train.BatchDone) -> int:
        return (event.epoch - 1) * self.steps_per_epoch + event.step

    def _epoch(self, event: train.Epoch) -> None:
        r = event.record
        self.bars.update(self.tasks["train"], completed=int(r["epoch"]) * self.steps_per_epoch)
        if int(r["epoch"]) == self.epochs:
            self.bars.remove_task(self.tasks.pop("train"))
        every = 1 if self.errors.is_terminal else max(1, self.epochs // 20)
        if int(r["epoch"]) % every and int(r["epoch"]) != self.epochs:
            return
        held_out = "".join(
            f"{100 * r[k]:8.2f} %" if k in r else f"{'–':>10}" for k in ("held_natural", "held_certified")
        )
        line = f"{int(r['epoch']):>4}/{self.epochs:<4}{r['eps']:9.6f}{r['natural']:9.3f}{r['robust']:9.3f}"
        line += f"{r['tightness']:8.3f}{r['balance']:8.4f}{held_out}{r['seconds']:8.1f}"
        self.errors.print(line, highlight=False, markup=False)


def present(done: Done, style: str, out: Console) -> int:
    """Print the result, as JSON alone or as a panel, and return the exit code; of several processes, one prints."""
    if not done.is_first:
        return done.exit_code
    summary.append(markdown(done.report))
    for gate in done.report.result.gates:
        if gate.passed is not True:
            word, text = "failed" if gate.passed is False else "undecided", " ".join(gate.summary.split())
            summary.annotate(f"Gate {word}: {clean(gate.id, 120)}", f"{clean(text, 400)} ({gate.k} of {gate.n})")
    if style == "json":
        sys.stdout.write(dump(done.report))
        return done.exit_code
    if loudness() < 0:
        return done.exit_code
    if done.report.kind == "retraining":
        out.print(before_after(done.report))
    out.print(panel(done.report, folder=done.folder))
    return done.exit_code
