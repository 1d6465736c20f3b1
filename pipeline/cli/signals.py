"""SIGTERM and Ctrl-C as a request: the step ends, a checkpoint is written. A second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.cli.devices import follow_launcher
from pipeline.errors import Preempted


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that is set when the process is asked to stop; what then ends as Preempted is 130 after Ctrl-C, 75 else."""
    stop, interrupted = threading.Event(), threading.Event()

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if stop.is_set():
                raise KeyboardInterrupt
            interrupted.set()
        stop.set()

    follow_launcher()
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    except Preempted as stopped:
        if interrupted.is_set():
            stopped.exit_code = 130
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
