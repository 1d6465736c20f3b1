"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from pipeline.errors import UsageError


def require_replaceable(path: Path) -> None:
    """Raise UsageError (2) where something else than a file would be replaced: a device, a pipe, a folder, or a link to one."""
    folder = os.path.realpath(path.parent)
    if folder == "/dev" or folder.startswith("/proc/") or (path.exists() and not path.is_file()):
        raise UsageError(
            f"What is written is a file, which is replaced whole; {path} is something else. Name another, or - for standard "
            "output where the command takes it."
        )


def replace_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` as a whole; where that fails (OSError), the old file stays."""
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
    # The rename itself must survive a power failure; not every system lets a folder be synced.
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
