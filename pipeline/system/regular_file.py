"""Files whose path or content is somebody else's: only regular ones are read, and no open waits for another process."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import InputRejected

# Opening a FIFO would wait for a writer, and a terminal could become this process's own.
_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_UNOPENED = {errno.ELOOP: "a circle of links", errno.EISDIR: "a folder", errno.ENXIO: "a socket"}
_KINDS = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket"}


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises InputRejected (3) for anything but a regular file, OSError where there is none."""
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _WITHOUT_WAITING))  # noqa: SIM115
    except OSError as error:
        if error.errno in _UNOPENED:
            raise _refusal(path, _UNOPENED[error.errno]) from None
        raise
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        raise _refusal(path, next((name for test, name in _KINDS.items() if test(mode)), "a device"))
    return file


def require_below(folder: Path) -> None:
    """Raise InputRejected (3) where a folder, whose files another library will open, holds anything but files and folders."""
    for path in folder.rglob("*"):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _refusal(path, str(error.strerror).lower()) from None
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise _refusal(path, next((name for test, name in _KINDS.items() if test(mode)), "a device"))


def _refusal(path: Path, kind: str) -> InputRejected:
    return InputRejected(f"What is read must be a regular file; {path.name!r} is {kind}. Name the file itself.")
