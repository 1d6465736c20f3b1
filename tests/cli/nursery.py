"""Commands as real processes that start at once: forked from one that has imported everything."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Pipes = tuple[tuple[int, int], tuple[int, int]]
MODULES = (
    *("pipeline.commands.certification", "pipeline.commands.retraining"),
    *("matplotlib.backends.backend_svg", "onnx2torch", "onnxruntime", "torch._dynamo"),
)
ROOM = 1 << 20
"""Bytes that a command may say on each of standard output and standard error."""


@dataclass(frozen=True)
class Ended:
    """The exit code, or minus the number of the signal that ended it; and what was said."""

    code: int
    out: str
    err: str


class Nursery:
    """One command at a time: ``start``, which gives the process's id, then ``end``; or ``run``, which is both."""

    def __init__(self, root: Path):
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.cli.nursery import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path]), "OMP_NUM_THREADS": "1"},
        )
        assert self._answer() == "ready"

    def start(self, folder: Path, *argv: str, kill_after: float | None = None, before: str = "", **limits: int) -> int:
        """Start a command line in a folder.

        After ``kill_after`` seconds SIGKILL ends it, unless it has come to its end. ``before`` is Python that the process runs
        first. ``limits`` are those of ``resource``, such as FSIZE in bytes.
        """
        assert self._process.stdin is not None
        order = {"folder": str(folder), "argv": argv, "kill_after": kill_after, "before": before, "limits": limits}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def end(self) -> Ended:
        """Wait for the command that was started."""
        return Ended(*json.loads(self._answer()))

    def run(self, folder: Path, *argv: str, kill_after: float | None = None, before: str = "", **limits: int) -> Ended:
        """Start a command line and wait for it."""
        self.start(folder, *argv, kill_after=kill_after, before=before, **limits)
        return self.end()

    def runs(self) -> bool:
        """Whether the command that was started has not come to its end: then its code would be here."""
        return not select.select([self._process.stdout], [], [], 0)[0]

    @property
    def bytes(self) -> int:
        """The address space that a command has before it does anything."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[0]
        return int(pages) * resource.getpagesize()

    def close(self) -> None:
        """No more commands."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def serve() -> None:
    """A child for each order on standard input; its id is answered when it starts, its code when it has ended."""
    import torch

    from pipeline.cli.main import run

    for name in MODULES:
        importlib.import_module(name)
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        order, pipes = json.loads(line), (os.pipe(), os.pipe())
        for _, end in pipes:  # read when all is over, and no files: the limits of files are not for them
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, ROOM)
        child = os.fork()
        if child == 0:
            os._exit(_child(order, run, pipes))
        print(child, flush=True)
        if order["kill_after"] is not None:
            _kill(child, order["kill_after"])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, *(_said(*ends) for ends in pipes)]), flush=True)


def _said(source: int, end: int) -> str:
    os.close(end)
    with open(source, "rb") as file:
        return file.read().decode("utf-8", "replace")


def _kill(child: int, after: float) -> None:
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)


def _child(order: dict[str, Any], run: Callable[[list[str]], int], pipes: Pipes) -> int:
    os.chdir(order["folder"])
    exec(order["before"], {})
    for number, (_, end) in zip((1, 2), pipes, strict=True):
        os.dup2(end, number)
    for name, value in order["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    code = run(order["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code
