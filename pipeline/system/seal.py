"""Files that only their own user can have written: each ends in an authentication code.

The code is HMAC-SHA256 (RFC 2104) under the user's key, over the run that the file belongs to, its name and its content; one over
its size stands before it, so that nobody makes a run read a terabyte of zeros. A file without them was put there by somebody
else, came from another machine, or is damaged: which of these cannot be told.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.system.atomic import replace_atomically

FORMAT = b"pipeline run folder 2"
HEAD = b"\nhmac-sha256 "
CODE = 64 + 1
"""Bytes of a code and the character behind it."""
LENGTH = len(HEAD) + 2 * CODE
"""Bytes of both codes at the end of a file."""
# No link is followed, and no pipe waited for.
READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Foreign(Exception):
    """A file is there, and carries no authentication code under this key for this run and this name."""


@dataclass(frozen=True)
class Seal:
    """Writes and reads the files of one run; ``run`` names it, or is empty for files whose content does."""

    secret: bytes = field(repr=False)
    run: str = ""

    @property
    def fingerprint(self) -> str:
        """The same for the same key and run, and no help in finding either."""
        return hmac.new(self.secret, FORMAT + self.run.encode(), hashlib.sha256).hexdigest()[:16]

    def write(self, path: Path, content: bytes) -> None:
        """Put content and code at ``path``, whole or not at all. Raises OSError."""
        end = self._of_size(path, len(content)) + self._of_content(path, content)
        replace_atomically(path, content + end)

    def read(self, path: Path) -> bytes | None:
        """The content, or None where there is no file. Raises Foreign; OSError where the disk refuses."""
        try:
            file = open(path, "rb", opener=lambda name, _: os.open(name, READ))  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            return None
        except OSError as error:
            if path.is_symlink() or isinstance(error, PermissionError | IsADirectoryError):
                raise Foreign(f"{path} is no file of this user's") from error
            raise
        with file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size < LENGTH:
                raise Foreign(f"{path} carries no authentication code")
            size = found.st_size - LENGTH
            file.seek(size)
            self._compare(path, self._of_size(path, size), file.read(LENGTH)[:-CODE])
            file.seek(0)
            stored = file.read(found.st_size)
        self._compare(path, self._of_content(path, stored[:size]), stored[-CODE:])
        return stored[:size]

    def _of_size(self, path: Path, size: int) -> bytes:
        """How the end of a file begins."""
        return HEAD + self._code(path, b"size", b"%d" % size) + b" "

    def _of_content(self, path: Path, content: bytes) -> bytes:
        """How it ends."""
        return self._code(path, b"content", content) + b"\n"

    def _code(self, path: Path, what: bytes, content: bytes) -> bytes:
        code = hmac.new(self.secret, digestmod=hashlib.sha256)
        for part in (FORMAT, self.run.encode(), path.name.encode(), what):
            code.update(len(part).to_bytes(8, "big") + part)
        code.update(content)
        return code.hexdigest().encode()

    def _compare(self, path: Path, code: bytes, stated: bytes) -> None:
        if not hmac.compare_digest(code, stated):
            raise Foreign(f"{path} carries no authentication code of this user for this run")
