"""Files that only their own user can have written: each ends in an authentication code.

The code is HMAC-SHA256 (RFC 2104) under the user's key, over the run that the file belongs to, its name and its content. A code
over the size stands before it, so that nobody can make a run read a terabyte of zeros. A file without valid codes was put there
by somebody else, comes from another machine, or is damaged; nothing tells these cases apart.
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
"""The length of a code and of the character behind it, in bytes."""
LENGTH = len(HEAD) + 2 * CODE
"""The length of both codes at the end of a file, in bytes."""
# Follow no link, and wait for no pipe.
READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Foreign(Exception):
    """A file exists but carries no authentication code under this key for this run and this name."""


@dataclass(frozen=True)
class Seal:
    """Writes and reads the files of one run. ``run`` identifies the run; it is empty for files whose content does so."""

    secret: bytes = field(repr=False)
    run: str = ""

    @property
    def fingerprint(self) -> str:
        """A digest of key and run, which reveals neither."""
        return hmac.new(self.secret, FORMAT + self.run.encode(), hashlib.sha256).hexdigest()[:16]

    def write(self, path: Path, content: bytes) -> None:
        """Write content and codes to ``path``, whole or not at all. Raises OSError."""
        end = self._of_size(path, len(content)) + self._of_content(path, content)
        replace_atomically(path, content + end)

    def read(self, path: Path) -> bytes | None:
        """The content, or None where there is no file. Raises Foreign for a missing or wrong code, OSError from the disk."""
        try:
            file = open(path, "rb", opener=lambda name, _: os.open(name, READ))  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            return None
        except OSError as error:
            if path.is_symlink() or isinstance(error, PermissionError | IsADirectoryError):
                raise Foreign(f"{path} is no file of this user's") from error
            raise
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size < LENGTH:
                raise Foreign(f"{path} carries no authentication code")
            size = status.st_size - LENGTH
            file.seek(size)
            self._compare(path, self._of_size(path, size), file.read(LENGTH)[:-CODE])
            file.seek(0)
            whole = file.read(status.st_size)
        self._compare(path, self._of_content(path, whole[:size]), whole[-CODE:])
        return whole[:size]

    def _of_size(self, path: Path, size: int) -> bytes:
        """The first code at the end of a file, over the size of the content in bytes."""
        return HEAD + self._code(path, b"size", b"%d" % size) + b" "

    def _of_content(self, path: Path, content: bytes) -> bytes:
        """The last code at the end of a file, over its content."""
        return self._code(path, b"content", content) + b"\n"

    def _code(self, path: Path, kind: bytes, content: bytes) -> bytes:
        code = hmac.new(self.secret, digestmod=hashlib.sha256)
        for part in (FORMAT, self.run.encode(), path.name.encode(), kind):
            code.update(len(part).to_bytes(8, "big") + part)
        code.update(content)
        return code.hexdigest().encode()

    def _compare(self, path: Path, code: bytes, in_file: bytes) -> None:
        if not hmac.compare_digest(code, in_file):
            raise Foreign(f"{path} carries no authentication code of this user for this run")
