"""A process that may take too little memory to load the libraries says so, and ends with the code for that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import out_of_memory

LEAST = 2**29
"""Bytes of address space below which OpenBLAS ends the process while it is loaded, with the code of a failed gate."""


@contextmanager
def ready() -> Iterator[None]:
    """Around the first import of what a command needs: exits with 74 where there is too little memory for it."""
    if (most := _allowed()) is not None and most < LEAST:
        sys.exit(_refusal(f"this process may take {most} bytes of address space, and its libraries alone take more"))
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        sys.exit(_refusal(f"there is too little memory to load the libraries ({str(error).strip().splitlines()[-1:]})"))


def _allowed() -> int | None:
    """The limit of address space (``ulimit -v``), None where there is none."""
    if os.name != "posix":
        return None
    import resource

    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if most == resource.RLIM_INFINITY else most


def _refusal(why: str) -> int:
    """The exit code, once the reason is on standard error; nothing more is imported."""
    sys.stderr.write(f"pipeline: {why}: allow it more (`ulimit -v`, or the limit of its container).\n")
    return 74
