"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from pipeline.errors import UsageError


def require_replaceable(path: Path) -> None:
    """Raise UsageError (2) where something else than a file would go: a device, a pipe or a folder, also behind a link."""
    there = os.path.realpath(path.parent)
    if there == "/dev" or there.startswith("/proc/") or (path.exists() and not path.is_file()):
        raise UsageError(
            f"What is written is a file, which is replaced whole; {path} is something else. Name another, or - for standard "
            "output where the command takes it."
        )


def replace_atomically(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``: all of it, or, if anything fails (OSError), what was there before."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    # The rename itself must outlive a power cut; not every system lets a folder be synced.
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
