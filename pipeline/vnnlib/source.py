"""The text of a property file, plain or gzip, of a size that can be read."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from pipeline.errors import InputRejected
from pipeline.limits import limits


def read(path: Path) -> str:
    """The text of a ``.vnnlib`` or ``.vnnlib.gz`` file of a size that can be read. Raises InputRejected (3)."""
    most = limits().property_bytes
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputRejected(
            f"A property is a VNN-LIB file; {path.name!r} cannot be read: {str(error)[:200]}."
        ) from None
    if len(content) > most:
        raise InputRejected(
            f"A property has at most {most} bytes of text; {path.name!r} has more. Split its disjuncts over files."
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputRejected(f"A property is text in UTF-8; {path.name!r} is not. Write it again.") from None
