"""``--devices N``: the same command in N processes of this machine, and one exit code for all of them.

Processes meet as under torchrun, by the same variables; they are started here because torchrun turns every exit code into 1.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.cli.status import Ending
from pipeline.errors import EnvironmentFailure, Preempted, UsageError

WORKER = "PIPELINE_WORKER"
"""Set in the processes started here; they ignore ``--devices``."""
GRACE = 30.0
"""Seconds that the others have to end by themselves once one was killed or has failed for want of something."""


def several(devices: int) -> bool:
    """Whether the command is to be run by processes that are yet to be started. Raises UsageError under another launcher."""
    if devices == 1 or WORKER in os.environ:
        return False
    if "RANK" in os.environ:
        raise UsageError(
            "--devices starts processes of its own, and this one was started by a launcher; say --nproc-per-node there instead."
        )
    return True


def launch(ending: Ending, devices: int) -> int:
    """Run the same command in ``devices`` processes, hand signals on to them, and return the exit code of their run.

    The first process writes, prints and says how it ended; where it could not, or the cause is another's, that is said here.
    """
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        logs = [None, *(Path(folder) / str(rank) for rank in range(1, devices))]
        common = _environment(devices)
        with _signals() as signals, _all_ended([]) as workers:
            for rank, path in enumerate(logs):
                workers.append(_start(ending.argv, rank, common, path))
            codes = _codes(workers, signals)
        code, rank = _verdict(codes, signals)
        own = codes[rank] or 0
        if rank == 0 and own >= 0:
            ending.folder = None  # the first process has written it
            return code
        failure = EnvironmentFailure(_failure_of(rank, own, logs[rank]))
        failure.exit_code = code
        raise failure


def follow_launcher() -> None:
    """In a process started here: where the launcher is killed, stop as if asked to."""
    if WORKER in os.environ:
        threading.Thread(target=_await_end, daemon=True).start()


def _await_end() -> None:
    # The launcher writes nothing; the end of the file is its end.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _start(argv: Sequence[str], rank: int, common: Mapping[str, str], path: Path | None) -> subprocess.Popen[bytes]:
    """The process of one rank, in a session of its own: a terminal's Ctrl-C reaches it once, by way of us."""
    settings = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), WORKER: "1"}
    command = [sys.executable, "-m", "pipeline", *argv]
    if path is None:
        return subprocess.Popen(command, env=settings, stdin=subprocess.PIPE, start_new_session=True)
    with open(path, "wb") as log:
        return subprocess.Popen(
            command,
            env=settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )


def _environment(world: int) -> dict[str, str]:
    """What the processes of a run have in common: where they meet, and their share of the cores."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sizes = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return {"OMP_NUM_THREADS": str(max(1, cores // world))} | os.environ | meeting | sizes


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The requests to stop that this process gets, in the order in which they come."""
    signals: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: signals.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _all_ended(workers: list[subprocess.Popen[bytes]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of which none is left behind, however this ends."""
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _codes(workers: Sequence[subprocess.Popen[bytes]], signals: Sequence[int]) -> list[int | None]:
    """The exit code of each once all have ended; None for one that had not, GRACE after another was killed or failed.

    Each is handed what this process is asked.
    """
    until, handed = float("inf"), 0
    while None in (codes := [worker.poll() for worker in workers]) and time.monotonic() < until:
        for number in signals[handed:]:
            for worker in workers:
                worker.send_signal(number)
            handed += 1
        if any(code is not None and (code < 0 or code in (70, 74)) for code in codes):
            until = min(until, time.monotonic() + GRACE)
        time.sleep(0.05)
    return codes


def _verdict(codes: Sequence[int | None], signals: Sequence[int]) -> tuple[int, int]:
    """The exit code of the run, and the rank of the process that it is taken from.

    A process that sees another gone ends with 74: one that was killed, or ended for a reason of its own, goes before it.
    """
    ended = [(rank, code) for rank, code in enumerate(codes) if code is not None and code != 0]
    for rank, code in ended:
        if code > 0 and code != EnvironmentFailure.exit_code:
            return code, rank
    for rank, code in ended:
        if code < 0:
            stopped = 130 if signal.SIGINT in signals else Preempted.exit_code
            return stopped if signals else EnvironmentFailure.exit_code, rank
    return (EnvironmentFailure.exit_code, ended[0][0]) if ended else (0, 0)


def _failure_of(rank: int, code: int, log: Path | None) -> str:
    """What is known of the process that a run failed by."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"process {rank} of this run was ended by {name}; what was kept is kept, run the same command again."
    own = log.read_text("utf-8", errors="replace") if log else ""
    return f"process {rank} of this run failed with exit code {code}: {own.strip()[-2000:].removeprefix('pipeline: ')}"
