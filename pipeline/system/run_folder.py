"""The folder of a run, beside the file it writes: decided units of work or a checkpoint, and in the end a record of what it did.

A file in it counts only if it is authenticated by the user's own key: otherwise whoever may put files beside a model could decide
the result of a run. At the end of the module: the places of results where the user names none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pipeline.distributed.group import ProcessGroup
from pipeline.errors import EnvironmentFailure, InputRejected, UsageError
from pipeline.system.seal import Foreign, Seal
from pipeline.system.user_key import VARIABLE, UserKey, user_key

KEY, CHECKPOINT, RECORD, CHOICES, PARTS = "key", "checkpoint.pt", "finished.json", "choices.json", "part-*.npz"
PATTERNS = (KEY, CHECKPOINT, RECORD, CHOICES, PARTS)
"""The files that a run writes here, beside its lock and temporary names: nothing else is ever removed."""
Owner = Literal["nobody", "this command", "another command", "somebody"]


@dataclass(frozen=True)
class WrittenModel:
    """The record of a training run that finished: enough to certify the written file again without training."""

    key: str
    """Digest of the configuration that the file results from."""
    written_sha256: str
    changes: tuple[str, ...]
    curves: tuple[dict[str, float | int], ...]
    epoch: int
    """The epoch whose weights were written."""


@dataclass(frozen=True)
class RunFolder:
    """The folder ``<out>.run`` of the file ``out``. The argument ``run`` is the digest of all that a run's results depend on."""

    out: Path

    @property
    def path(self) -> Path:
        return Path(f"{self.out}.run")

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @cached_property
    def user(self) -> UserKey:
        """The key that authenticates the files here."""
        return user_key()

    def seal(self, run: str = "") -> Seal | None:
        """What files are written and read with; None without a key: then no file is kept, and none is believed."""
        return None if self.user.secret is None else Seal(self.user.secret, run)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let no other process work on ``out`` meanwhile; the lock ends with the process.

        A run that is refused leaves no folder of its own, and an earlier run's folder as it was. Raises UsageError (2) where
        another process holds the lock, EnvironmentFailure (74) where the folder cannot be written.
        """
        lock, fresh = self.path / "lock", not self.path.exists()
        for path, right in ((self.path, self.path.is_dir()), (lock, lock.is_file())):
            if path.is_symlink() or (path.exists() and not right):
                raise UsageError(f"{path} is not what a run leaves there, but a link or something else; move it away.")
        file_lock = FileLock(lock)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file_lock.acquire(blocking=False)
        except Timeout:
            raise UsageError(
                f"another process is working on {self.out}; wait for its end, or name another place."
            ) from None
        except OSError as error:
            raise EnvironmentFailure(f"{self.path} cannot be written to: {error.strerror or error}.") from None
        try:
            yield
        except (UsageError, InputRejected):
            valuable = (CHECKPOINT, RECORD) if fresh else (CHECKPOINT, RECORD, PARTS)
            if not self._holds(valuable):
                self.clear()
            raise
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()
                self.path.rmdir()
            file_lock.release()

    @contextlib.contextmanager
    def lock_for(self, group: ProcessGroup) -> Iterator[None]:
        """``lock`` for several processes: the first one takes it, and its refusal is raised in all."""
        with contextlib.ExitStack() as stack:
            group.on_first(lambda: stack.enter_context(self.lock()))
            yield

    def clear(self) -> None:
        """Remove what runs leave here. Raises EnvironmentFailure (74) where the disk refuses."""
        try:
            for pattern in (*PATTERNS, *(f".{pattern}.*.tmp" for pattern in PATTERNS)):
                for path in self.path.glob(pattern):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise EnvironmentFailure(f"{self.path} cannot be cleared: {error}; move it away.") from None

    def owner(self, run: str) -> Owner:
        """Whose files these are, as far as the key can tell: files not authenticated by it are somebody's."""
        if not self._holds(PATTERNS):
            return "nobody"
        try:
            owner = None if (seal := self.seal()) is None else seal.read(self.path / KEY)
        except Foreign:
            return "somebody"
        if owner is None:
            return "somebody"
        return "this command" if owner == run.encode() else "another command"

    def begin(self, run: str) -> bool:
        """Mark the folder as this run's; False without a key, where no file will be kept."""
        if (seal := self.seal()) is None:
            return False
        self.path.mkdir(parents=True, exist_ok=True)
        seal.write(self.path / KEY, run.encode())
        return True

    def begin_anew(self, run: str) -> Owner:
        """Make the folder this run's, after removing what anybody else left in it; returns whose that was."""
        if (owner := self.owner(run)) != "this command":
            self.clear()
        self.begin(run)
        return owner

    def unauthenticated(self) -> tuple[Path, ...]:
        """The files of a training run here that carry no authentication code of this user's."""
        return tuple(
            path for name in (KEY, CHECKPOINT, RECORD, CHOICES) if self._unauthenticated(path := self.path / name)
        )

    def require_own(self) -> None:
        """Raise UsageError (2) where training would have to believe, or overwrite, files that are not authenticated."""
        if paths := self.unauthenticated():
            why = self.user.reason or f"a run on another machine, or of another user, needs the same {VARIABLE}"
            raise UsageError(
                f"{', '.join(map(str, paths))}: no authentication code of yours, so nothing goes on from there ({why}). "
                "Remove what you do not know; --force does, and starts anew."
            )

    def save_record(self, record: WrittenModel) -> None:
        """Keep the record of a finished run, where there is a key. Raises OSError."""
        if (seal := self.seal()) is not None:
            seal.write(self.path / RECORD, (json.dumps(asdict(record), indent=1) + "\n").encode())

    def load_record(self, run: str) -> WrittenModel | None:
        """The record that the same command left when it finished; the caller compares the file's digest."""
        seal = self.seal()
        content = None if seal is None else seal.read(self.path / RECORD)
        if content is None:
            return None
        fields = json.loads(content)
        record = WrittenModel(**{**fields, "changes": tuple(fields["changes"]), "curves": tuple(fields["curves"])})
        if record.key != run or not self.out.exists():
            return None
        return record

    def save_choices(self, values: Mapping[str, Any]) -> None:
        """Write down what was chosen, by the digest of what was asked for, where there is a key."""
        if (seal := self.seal()) is not None:
            seal.write(self.path / CHOICES, json.dumps(values).encode())

    def load_choices(self) -> dict[str, Any]:
        """What was chosen here before; the caller has made sure that the files are the user's own."""
        content = None if (seal := self.seal()) is None else seal.read(self.path / CHOICES)
        return {} if content is None else dict(json.loads(content))

    def belongs_to(self, run: str) -> bool:
        """Whether the same command began here before: what it wrote, or was about to write, it may write again."""
        return self.owner(run) == "this command"

    def _holds(self, patterns: tuple[str, ...]) -> bool:
        return any(True for pattern in patterns for _ in self.path.glob(pattern))

    def _unauthenticated(self, path: Path) -> bool:
        if (seal := self.seal()) is None:
            return os.path.lexists(path)
        try:
            seal.read(path)
        except Foreign:
            return True
        return False


@cache
def program() -> str:
    """SHA-256 over the source of this program: no run goes on from what another version decided."""
    code, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        code.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return code.hexdigest()


def certification_folder(model: Path, shard: tuple[int, int] | None = None) -> Path:
    """The report folder of ``certify``: in the working folder, named after the model, and after the shard if it is one."""
    return Path(f"{model.stem}.report" if shard is None else f"{model.stem}.shard-{shard[0]}-of-{shard[1]}.report")


def property_folder(property_file: Path) -> Path:
    """The report folder of ``certify --property``: in the working folder, named after the property."""
    return Path(f"{property_file.name.partition('.vnnlib')[0]}.report")


def retrained_file(model: Path) -> Path:
    """The file that ``retrain`` writes: beside the given one."""
    return model.with_name(f"{model.stem}.certified.onnx")


def retraining_folder(out: Path) -> Path:
    """The report folder of ``retrain``: beside the file that it writes."""
    return out.with_name(f"{out.stem}.report")


def require_folder(folder: Path) -> None:
    """Raise UsageError (2), before any work, where a report folder neither exists nor can be made."""
    existing = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path())
    if not existing.is_dir():
        raise UsageError(f"--report is a folder, and {existing} is something else; name another, or move that away.")
