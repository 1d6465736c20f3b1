"""Files that only their own user can have written: each ends in an authentication code.

The code is HMAC-SHA256 (RFC 2104) under the user's key, over the run that the file belongs to, its name and its content. A file
without it was put there by somebody else, came from another machine, or is damaged: which of these cannot be told.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.system.atomic import replace_atomically

FORMAT = b"pipeline run folder 1"
HEAD = b"\nhmac-sha256 "
LENGTH = len(HEAD) + 64 + 1
"""Bytes of a code at the end of a file."""
CHUNK = 1 << 20
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
        code = self._begun(path)
        code.update(content)
        replace_atomically(path, content + HEAD + code.hexdigest().encode() + b"\n")

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
            # First without keeping it: a stranger's file may be larger than the memory.
            code, left = self._begun(path), found.st_size - LENGTH
            while left and (chunk := file.read(min(CHUNK, left))):
                code.update(chunk)
                left -= len(chunk)
            self._compare(path, code, file.read(LENGTH))
            file.seek(0)
            stored = file.read(found.st_size)
        # What is handed out is what was authenticated, whoever writes meanwhile.
        code = self._begun(path)
        code.update(stored[:-LENGTH])
        self._compare(path, code, stored[-LENGTH:])
        return stored[:-LENGTH]

    def _begun(self, path: Path) -> hmac.HMAC:
        code = hmac.new(self.secret, digestmod=hashlib.sha256)
        for part in (FORMAT, self.run.encode(), path.name.encode()):
            code.update(len(part).to_bytes(8, "big") + part)
        return code

    def _compare(self, path: Path, code: hmac.HMAC, stated: bytes) -> None:
        if not hmac.compare_digest(HEAD + code.hexdigest().encode() + b"\n", stated):
            raise Foreign(f"{path} carries no authentication code of this user for this run")
