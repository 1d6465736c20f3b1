"""``--isolate``: the whole command once more as a child, under limits of memory and time that it cannot lift.

A hostile file that finds a fault in a native library, or takes all memory or all time, ends the child; this process says so
and exits with 3. On by default where ``CI`` is set. The child is given the same arguments, so that reports are the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pipeline.errors import InputRejected

INSIDE = "PIPELINE_ISOLATED"
"""Set for the child, to its limit of memory in bytes."""
MEMORY_SHARE, SECONDS = 0.9, 6 * 3600.0
"""The defaults: nine tenths of the machine's memory, and six hours."""
CODE = "from pipeline.cli import main; main()"
GRACE = 60.0
"""Seconds between asking a child to stop and stopping it."""


@dataclass(frozen=True)
class Walls:
    """What a child may take: bytes of memory of its own, and seconds."""

    memory: int
    seconds: float


def supported() -> bool:
    """Whether this system can set limits: any but Windows."""
    return os.name == "posix"


def is_isolated(requested: bool | None, environment: Mapping[str, str]) -> bool:
    """Whether to run a child: as asked, else in CI; never within one."""
    if INSIDE in environment or requested is False:
        return False
    return bool(requested) or (environment.get("CI", "").lower() in ("true", "1") and supported())


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def run(argv: Sequence[str], walls: Walls, *, code: str = CODE) -> int:
    """Run a command as a child and return its exit code. Raises InputRejected (3) where a limit or a signal ended it.

    What stops this process (SIGTERM, SIGINT) is passed on, once each time: the child, in a session of its own, ends its step.
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {INSIDE: str(walls.memory), "PYTHONPATH": os.pathsep.join(paths)}
    # -P: the working folder may be a stranger's, and what lies there must not be imported.
    command = [sys.executable, "-P", "-c", code, *argv]
    child = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=lambda: _confine(walls))
    asked_at: list[float] = []

    def forward(number: int, frame: FrameType | None) -> None:
        asked_at.append(time.monotonic())
        child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ended = child.wait(walls.seconds)
    except subprocess.TimeoutExpired:
        _stop(child)
        raise InputRejected(
            f"An isolated run ends within {walls.seconds:g} s; this one did not, and was stopped. What it had decided is kept,"
            " and the same command goes on from there; allow more with --isolate-time, or end it well with --time-budget."
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if ended >= 0:
        return ended
    if asked_at and -ended in (signal.SIGTERM, signal.SIGINT):
        return 130 if -ended == signal.SIGINT else 75
    raise InputRejected(
        f"An isolated run ends by itself; signal {_name(-ended)} ended this one, under a limit of {walls.memory} bytes: its"
        " memory ran out, or the file met a fault in a library. Allow more with --isolate-memory, or do not trust the file."
    )


def _confine(walls: Walls) -> None:
    """In the child, before Python starts. CUDA reserves far more addresses than memory, so that these are not limited."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = walls.memory if most == resource.RLIM_INFINITY else min(walls.memory, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        # A child whose parent is killed is killed too.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
