"""The key that run folders are authenticated by: the user's own, or that of a variable; what others may read is not used."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.system.user_key import BYTES, VARIABLE, key_file, user_key

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
SECRET = bytes(range(40))


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    """The path of a key that no variable overrides, below the test's own folder."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return key_file()


def test_a_key_is_made_once_for_the_user_alone(state):
    assert user_key().secret is not None
    assert user_key() == user_key()
    assert (state.stat().st_mode & 0o777, state.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [path.name for path in state.parent.iterdir()] == ["key"]
    assert len(user_key().secret) == BYTES
    assert user_key().secret.hex() not in repr(user_key())


def test_processes_that_start_together_have_one_key(state):
    code = "from pipeline.system.user_key import user_key; print(user_key().secret.hex())"
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({process.communicate()[0] for process in started}) == 1


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda key: key.chmod(0o644), "chmod 600"),
        (lambda key: key.chmod(0o620), "chmod 600"),
        (lambda key: key.parent.chmod(0o755), "chmod 700"),
        (lambda key: key.write_text("a word"), "no key"),
        (lambda key: key.write_text(""), "no key"),
        (lambda key: (key.rename(key.with_name("k")), key.symlink_to("k")), "cannot be kept"),
        (lambda key: (key.unlink(), os.mkfifo(key, 0o600)), "must be a file"),
        (lambda key: (key.unlink(), key.mkdir(0o700)), "cannot be kept"),
        (lambda key: os.chown(key, 12345, -1), "another user"),
    ],
    ids=["readable", "writable", "folder", "words", "empty", "link", "fifo", "directory", "owner"],
)
def test_what_another_user_could_have_put_there_is_no_key(state, spoil, says):
    user_key()
    try:
        spoil(state)
    except PermissionError:
        pytest.skip("only root may give files away")
    key = user_key()
    assert key.secret is None
    assert says in key.reason


def test_without_a_folder_there_is_no_key_and_why_is_said(tmp_path, state, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert user_key().secret is None
    assert VARIABLE in user_key().reason


@pytest.mark.parametrize(
    "written",
    [
        SECRET.hex(),
        f" {SECRET.hex().upper()}\n",
        *(f(SECRET).decode() for f in (base64.b64encode, base64.urlsafe_b64encode)),
    ],
)
def test_a_variable_holds_a_key_in_hexadecimal_or_base64(monkeypatch, written):
    monkeypatch.setenv(VARIABLE, written)
    assert user_key().secret == SECRET


@pytest.mark.parametrize("written", ["secret", "ab" * 31, "é" * 64, "a" * 42, "-" * 200 + "!", "٣" * 64])
def test_a_variable_without_a_key_is_refused_and_never_repeated(monkeypatch, written):
    monkeypatch.setenv(VARIABLE, written)
    with pytest.raises(UsageError, match="openssl rand") as refusal:
        user_key()
    assert written not in str(refusal.value)
