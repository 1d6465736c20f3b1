"""Events of a run on the terminal: notes and progress on standard error, the result on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline import certify, report
from pipeline.workflow import Done, Note

LABELS = {"predict": "ONNX Runtime on every sample", "attack": "PGD on every correct sample", "bound": "bounds"}


def consoles() -> tuple[Console, Console]:
    """(standard output, standard error); ``NO_COLOR`` and redirection are honoured by rich."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 100
    return Console(width=width), Console(stderr=True, width=width)


class Watch:
    """Shows events as they come and returns the last one; bars appear on a terminal only."""

    def __init__(self, errors: Console):
        self.errors = errors
        self.tasks: dict[str, TaskID] = {}
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
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
            self.errors.print(f"{'warning' if event.warning else 'note'}: {report.clean(event.text)}", markup=False, highlight=False)
        elif isinstance(event, certify.Progress):
            self._advance(event)

    def _advance(self, event: certify.Progress) -> None:
        if event.phase not in self.tasks:
            label = LABELS.get(event.phase, event.phase)
            if event.seconds is not None and event.seconds > 2:
                self.errors.print(f"note: {label}: about {event.seconds:.0f} s (--no-attack skips it)", highlight=False)
            self.tasks[event.phase] = self.bars.add_task(label, total=event.total)
        self.bars.update(self.tasks[event.phase], completed=event.done, total=event.total)
        if event.done >= event.total:
            self.bars.remove_task(self.tasks.pop(event.phase))


def present(done: Done, style: str, out: Console) -> int:
    """Print the result, as JSON alone or as a panel, and return the exit code."""
    if style == "json":
        sys.stdout.write(report.dump(done.report))
        return done.exit_code
    if done.report.kind == "retraining":
        out.print(report.before_after(done.report))
    out.print(report.panel(done.report, folder=done.folder))
    return done.exit_code
