"""What a run leaves beside the file it writes: what it has decided, or a checkpoint, and at the end what it did.

Nothing in the folder counts that is not authenticated by the user's own key: whoever may put files beside a model could
otherwise decide what a run finds. At the end of the module: where results go unless the user says otherwise."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from pipeline.distributed.group import Crew
from pipeline.errors import EnvironmentFailure, InputRejected, UsageError
from pipeline.system.seal import Foreign, Seal
from pipeline.system.user_key import VARIABLE, UserKey, user_key

KEY, CHECKPOINT, RECORD, PARTS = "key", "checkpoint.pt", "finished.json", "part-*.npz"
OURS = (KEY, CHECKPOINT, RECORD, PARTS)
"""All that a run writes here, beside its lock, and under temporary names: nothing else is ever removed."""
Whose = Literal["nobody", "this command", "another command", "somebody"]


@dataclass(frozen=True)
class WrittenModel:
    """Enough to certify a written file again without training."""

    key: str
    """Digest of the configuration that led to the file."""
    written_sha256: str
    changes: tuple[str, ...]
    curves: tuple[dict[str, float | int], ...]
    epoch: int
    """The epoch whose weights were written."""


@dataclass(frozen=True)
class RunFolder:
    """The folder ``<out>.run`` of the file ``out``; ``run`` below is the digest of everything that a run's results depend on."""

    out: Path

    @property
    def path(self) -> Path:
        """Where it all lies."""
        return Path(f"{self.out}.run")

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @cached_property
    def user(self) -> UserKey:
        """The key by which files here are known again."""
        return user_key()

    def seal(self, run: str = "") -> Seal | None:
        """What files are written and read by; None without a key: then nothing is kept, and nothing found is believed."""
        return None if self.user.secret is None else Seal(self.user.secret, run)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else works on ``out`` meanwhile; the lock dies with the process. Raises UsageError (2) where somebody does.

        A run that is refused leaves no folder, and what an earlier one kept as it was.
        """
        lock, fresh = self.path / "lock", not self.path.exists()
        for path, right in ((self.path, self.path.is_dir()), (lock, lock.is_file())):
            if path.is_symlink() or (path.exists() and not right):
                raise UsageError(f"{path} is not what a run leaves there, but a link or something else; move it away.")
        held = FileLock(lock)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held.acquire(blocking=False)
        except Timeout:
            raise UsageError(
                f"another process is working on {self.out}; wait for its end, or name another place."
            ) from None
        except OSError as error:
            raise EnvironmentFailure(f"{self.path} cannot be written to: {error.strerror or error}.") from None
        try:
            yield
        except (UsageError, InputRejected):
            worth = (CHECKPOINT, RECORD) if fresh else (CHECKPOINT, RECORD, PARTS)
            if not any(True for pattern in worth for _ in self.path.glob(pattern)):
                self.clear()
            raise
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()
                self.path.rmdir()
            held.release()

    @contextlib.contextmanager
    def held_by(self, crew: Crew) -> Iterator[None]:
        """The same for the processes of a run: the first one holds it, and all hear where somebody else does."""
        with contextlib.ExitStack() as held:
            crew.first(lambda: held.enter_context(self.held()))
            yield

    def clear(self) -> None:
        """Remove what runs leave here. Raises EnvironmentFailure where the disk refuses."""
        try:
            for pattern in (*OURS, *(f".{pattern}.*.tmp" for pattern in OURS)):
                for path in self.path.glob(pattern):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise EnvironmentFailure(f"{self.path} cannot be cleared: {error}; move it away.") from None

    def whose(self, run: str) -> Whose:
        """Who left what is here, as far as the key can tell: what is not this user's is somebody's."""
        if not any(True for pattern in OURS for _ in self.path.glob(pattern)):
            return "nobody"
        try:
            found = None if (seal := self.seal()) is None else seal.read(self.path / KEY)
        except Foreign:
            return "somebody"
        if found is None:
            return "somebody"
        return "this command" if found == run.encode() else "another command"

    def begin(self, run: str) -> bool:
        """Say whose the folder is; whether there is a key to say it by, so that anything will be kept."""
        if (seal := self.seal()) is None:
            return False
        self.path.mkdir(parents=True, exist_ok=True)
        seal.write(self.path / KEY, run.encode())
        return True

    def begin_anew(self, run: str) -> Whose:
        """Make the folder this run's: what anybody else left in it goes. Who that was."""
        if (was := self.whose(run)) != "this command":
            self.clear()
        self.begin(run)
        return was

    def foreign(self) -> tuple[Path, ...]:
        """What lies here of a training run and is not authenticated."""
        return tuple(path for name in (KEY, CHECKPOINT, RECORD) if self._foreign(path := self.path / name))

    def require_own(self) -> None:
        """Raise UsageError (2) where training would have to believe, or overwrite, what is not authenticated."""
        if found := self.foreign():
            why = self.user.why or f"a run on another machine, or of another user, needs the same {VARIABLE}"
            raise UsageError(
                f"{', '.join(map(str, found))}: no authentication code of yours, so nothing goes on from there ({why}). "
                "Remove what you do not know; --force does, and starts anew."
            )

    def remember(self, finished: WrittenModel) -> None:
        """Keep what was done, where there is a key."""
        if (seal := self.seal()) is not None:
            seal.write(self.path / RECORD, (json.dumps(asdict(finished), indent=1) + "\n").encode())

    def finished(self, run: str) -> WrittenModel | None:
        """What the same command left when it finished; whether the file is still the one it wrote is for the caller to see."""
        seal = self.seal()
        content = None if seal is None else seal.read(self.path / RECORD)
        if content is None:
            return None
        told = json.loads(content)
        found = WrittenModel(**{**told, "changes": tuple(told["changes"]), "curves": tuple(told["curves"])})
        if found.key != run or not self.out.exists():
            return None
        return found

    def begun_by(self, run: str) -> bool:
        """Whether the same command has been here before: what it wrote, or was about to write, it may write again."""
        return self.whose(run) == "this command"

    def _foreign(self, path: Path) -> bool:
        if (seal := self.seal()) is None:
            return os.path.lexists(path)
        try:
            seal.read(path)
        except Foreign:
            return True
        return False


@cache
def program() -> str:
    """SHA-256 over the source of this program: what another version of it has decided is decided again."""
    code, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        code.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return code.hexdigest()


def of_certification(model: Path, shard: tuple[int, int] | None = None) -> Path:
    """The report folder of ``certify``: in the working folder, named after the model, and after the share that it is of."""
    return Path(f"{model.stem}.report" if shard is None else f"{model.stem}.shard-{shard[0]}-of-{shard[1]}.report")


def of_property(property_file: Path) -> Path:
    """The report folder of ``certify --property``: in the working folder, named after the property."""
    return Path(f"{property_file.name.partition('.vnnlib')[0]}.report")


def retrained(model: Path) -> Path:
    """The file that ``retrain`` writes: beside the one given."""
    return model.with_name(f"{model.stem}.certified.onnx")


def of_retraining(out: Path) -> Path:
    """The report folder of ``retrain``: beside the file written."""
    return out.with_name(f"{out.stem}.report")


def require_folder(folder: Path) -> None:
    """Before any work: a report can be put there, or a folder made for it. Raises UsageError (2)."""
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path())
    if not there.is_dir():
        raise UsageError(f"--report is a folder, and {there} is something else; name another, or move that away.")
