"""The user's own key, which tells the files that a run left from those that somebody else put there."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_state_path

from pipeline.errors import UsageError

VARIABLE = "PIPELINE_STATE_KEY"
BYTES = 32
"""The least length of a key, and the length of a new one."""
READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True)
class UserKey:
    """``secret``, or the ``reason`` why there is none, as a sentence that ends in what to do."""

    secret: bytes | None = field(default=None, repr=False)
    reason: str = ""


def key_file() -> Path:
    """The path of the key unless a variable holds one: in the user's state folder, such as ~/.local/state/pipeline/key."""
    return user_state_path("pipeline", appauthor=False) / "key"


def user_key() -> UserKey:
    """The key of ``PIPELINE_STATE_KEY``, else that of the user's state folder, where the first use makes one.

    A file or folder that another user owns, or may read or write, is not used. Raises UsageError (2) for a variable that holds
    no key.
    """
    if text := os.environ.get(VARIABLE, "").strip():
        return UserKey(_decode(text))
    path = key_file()
    try:
        if not os.path.lexists(path):
            _create(path)
        return UserKey(_load(path))
    except _Unfit as error:
        return UserKey(reason=str(error))
    except OSError as error:
        return UserKey(
            reason=f"{path} cannot be kept: {error.strerror or error}; give the user a state folder, or set {VARIABLE}"
        )


class _Unfit(Exception):
    """A file that exists and cannot be trusted as a key."""


def _decode(text: str) -> bytes:
    """The bytes of a key in hexadecimal or base64. No message repeats the key itself."""
    secret = b""
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", text):
        secret = bytes.fromhex(text)
    elif text.isascii():
        standard = text.replace("-", "+").replace("_", "/").rstrip("=")
        with contextlib.suppress(binascii.Error):
            secret = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    if len(secret) < BYTES:
        raise UsageError(
            f"{VARIABLE} is a key of at least {BYTES} bytes in hexadecimal or base64; received {len(text)} characters that "
            f"hold {len(secret)} bytes. Make one with: openssl rand -hex {BYTES}"
        )
    return secret


def _create(path: Path) -> None:
    """Write a new key to ``path``, complete as soon as the name exists, unless another process does so first."""
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


def _load(path: Path) -> bytes:
    _require_private(path.parent, os.stat(path.parent, follow_symlinks=False), stat.S_ISDIR, "a folder", "700")
    with open(path, "rb", opener=lambda name, _: os.open(name, READ)) as file:
        _require_private(path, os.fstat(file.fileno()), stat.S_ISREG, "a file", "600")
        text = file.read(4096)
    if not re.fullmatch(rb"[0-9a-f]{%d}\n" % (2 * BYTES), text):
        raise _Unfit(f"{path} holds no key of this program; remove it, and the next run makes another")
    return bytes.fromhex(text.decode())


def _require_private(path: Path, status: os.stat_result, is_kind: Callable[[int], bool], kind: str, mode: str) -> None:
    """Raise _Unfit for a path that another user could have written or read."""
    if not is_kind(status.st_mode):
        raise _Unfit(f"{path} must be {kind}, no link and nothing else; move it away")
    if os.name != "posix":
        return
    if status.st_uid != os.geteuid():
        raise _Unfit(f"{path} belongs to another user (uid {status.st_uid}), so that it is no secret; set {VARIABLE}")
    if status.st_mode & 0o077:
        raise _Unfit(f"{path} is open to other users (mode {status.st_mode & 0o777:o}); say: chmod {mode} '{path}'")
