"""The text of a property file, plain or gzip, of limited size: opened once, without waiting for a writer."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputRejected
from pipeline.limits import limits


@dataclass(frozen=True)
class PropertyText:
    """A property file as it was read: its text, and the SHA-256 of its bytes."""

    text: str
    sha256: str


def load(path: Path) -> PropertyText:
    """Read a ``.vnnlib`` or ``.vnnlib.gz`` file of at most ``limits().property_bytes``. Raises InputRejected (3)."""
    most = limits().property_bytes
    try:
        # Without O_NONBLOCK a FIFO would wait for a writer.
        with os.fdopen(
            os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
        ) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("it is no regular file")
            raw = file.read(most + 1)
        content = raw
        if raw.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(raw)) as archive:
                content = archive.read(most + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputRejected(
            f"A property is a VNN-LIB file; {path.name!r} cannot be read: "
            f"{str(getattr(error, 'strerror', None) or error)[:200]}."
        ) from None
    if len(content) > most or len(raw) > most:
        raise InputRejected(
            f"A property has at most {most} bytes of text; {path.name!r} has more. Split its disjuncts over files."
        )
    try:
        return PropertyText(content.decode("utf-8"), hashlib.sha256(raw).hexdigest())
    except UnicodeDecodeError:
        raise InputRejected(f"A property is text in UTF-8; {path.name!r} is not. Write it again.") from None


def read(path: Path) -> str:
    """The text of a property file. Raises what ``load`` does."""
    return load(path).text
