"""The user's own key, by which a run knows the files that it left from those that somebody else put there."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_state_path

from pipeline.errors import UsageError

VARIABLE = "PIPELINE_STATE_KEY"
BYTES = 32
"""The least length of a key, and the length of one that is made here."""
READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True)
class UserKey:
    """``secret``, or ``why`` there is none, as a sentence that ends in what to do."""

    secret: bytes | None = field(default=None, repr=False)
    why: str = ""


def key_file() -> Path:
    """Where the key lies unless a variable holds one: the user's folder for state, such as ~/.local/state/pipeline/key."""
    return user_state_path("pipeline", appauthor=False) / "key"


def user_key() -> UserKey:
    """The key of ``PIPELINE_STATE_KEY``, else that of the user's state folder, which is made at the first use.

    A file or folder that another user owns, or may read or write, is not used. Raises UsageError (2) for a variable that holds
    no key.
    """
    if written := os.environ.get(VARIABLE, "").strip():
        return UserKey(_decoded(written))
    path = key_file()
    try:
        if not os.path.lexists(path):
            _make(path)
        return UserKey(_read(path))
    except _Unfit as error:
        return UserKey(why=str(error))
    except OSError as error:
        return UserKey(
            why=f"{path} cannot be kept: {error.strerror or error}; give the user a state folder, or set {VARIABLE}"
        )


class _Unfit(Exception):
    """A file that is there and cannot be trusted as a key."""


def _decoded(written: str) -> bytes:
    """The bytes of a key in hexadecimal or base64. The key itself is never repeated in a message."""
    secret = b""
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", written):
        secret = bytes.fromhex(written)
    elif written.isascii():
        standard = written.replace("-", "+").replace("_", "/").rstrip("=")
        with contextlib.suppress(binascii.Error):
            secret = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    if len(secret) < BYTES:
        raise UsageError(
            f"{VARIABLE} is a key of at least {BYTES} bytes in hexadecimal or base64; received {len(written)} characters that "
            f"hold {len(secret)} bytes. Make one with: openssl rand -hex {BYTES}"
        )
    return secret


def _make(path: Path) -> None:
    """A new key at ``path``, whole from the first moment that the name is there; another process may be first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".key.{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(os.open(temporary, WRITE, 0o600), "wb") as file:
            file.write(secrets.token_hex(BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _read(path: Path) -> bytes:
    _owned(path.parent, os.stat(path.parent, follow_symlinks=False), stat.S_ISDIR, "a folder", "700")
    with open(path, "rb", opener=lambda name, _: os.open(name, READ)) as file:
        _owned(path, os.fstat(file.fileno()), stat.S_ISREG, "a file", "600")
        text = file.read(4096)
    if not re.fullmatch(rb"[0-9a-f]{%d}\n" % (2 * BYTES), text):
        raise _Unfit(f"{path} holds no key of this program; remove it, and the next run makes another")
    return bytes.fromhex(text.decode())


def _owned(path: Path, found: os.stat_result, kind: object, what: str, mode: str) -> None:
    """Raise _Unfit for what another user could have written or read."""
    if not kind(found.st_mode):  # type: ignore[operator]
        raise _Unfit(f"{path} must be {what}, no link and nothing else; move it away")
    if os.name != "posix":
        return
    if found.st_uid != os.geteuid():
        raise _Unfit(f"{path} belongs to another user (uid {found.st_uid}), so that it is no secret; set {VARIABLE}")
    if found.st_mode & 0o077:
        raise _Unfit(f"{path} is open to other users (mode {found.st_mode & 0o777:o}); say: chmod {mode} '{path}'")
