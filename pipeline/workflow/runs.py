"""What a run leaves beside the file it writes: a checkpoint while it trains, and at the end what it did."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.atomic import replace_atomically
from pipeline.crew import Crew
from pipeline.errors import EnvironmentFailure, UsageError
from pipeline.graph import model_file


@dataclass(frozen=True)
class Finished:
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
    """The folder ``<out>.run`` of the file ``out``."""

    out: Path

    @property
    def path(self) -> Path:
        """Where it all lies."""
        return Path(f"{self.out}.run")

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def record(self) -> Path:
        return self.path / "finished.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else works on ``out`` meanwhile; the lock dies with the process. Raises UsageError (2) where somebody does."""
        lock = FileLock(self.path / "lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            raise UsageError(
                f"another process is working on {self.out}; wait for its end, or name another place."
            ) from None
        except OSError as error:
            raise EnvironmentFailure(f"{self.path} cannot be written to: {error.strerror or error}.") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (self.path / "lock").unlink()
                self.path.rmdir()
            lock.release()

    @contextlib.contextmanager
    def held_by(self, crew: Crew) -> Iterator[None]:
        """The same for the processes of a run: the first one holds it, and all hear where somebody else does."""
        with contextlib.ExitStack() as held:
            crew.first(lambda: held.enter_context(self.held()))
            yield

    def begin(self, key: str) -> None:
        """Make the folder and say whose it is."""
        self.path.mkdir(parents=True, exist_ok=True)
        replace_atomically(self.path / "key", key.encode())

    def remember(self, finished: Finished) -> None:
        """Keep what was done."""
        replace_atomically(self.record, (json.dumps(asdict(finished), indent=1) + "\n").encode())

    def finished(self, key: str) -> Finished | None:
        """What the same command left when it finished, if the file is still the one it wrote. Raises UsageError."""
        try:
            told = json.loads(self.record.read_text("utf-8"))
            found = Finished(
                told["key"],
                told["written_sha256"],
                tuple(told["changes"]),
                tuple(told["curves"]),
                told.get("epoch", len(told["curves"])),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(f"{self.record} is not what a run leaves; remove {self.path} to start anew.") from None
        same = (
            found.key == key and self.out.exists() and model_file.read(self.out).digests.sha256 == found.written_sha256
        )
        return found if same else None

    def begun_by(self, key: str) -> bool:
        """Whether the same command has been here before: what it wrote, or was about to write, it may write again."""
        whose = self.path / "key"
        return whose.is_file() and whose.read_text("utf-8") == key

    def begin_anew(self, key: str) -> bool:
        """Make the folder this command's: what another left in it goes. Whether there was anything of another."""
        others = (self.path / "key").exists() and not self.begun_by(key)
        if others:
            for leftover in self.path.iterdir():
                if leftover.name != "lock":
                    leftover.unlink()
        self.begin(key)
        return others

    def forget_others(self, key: str) -> None:
        """What another configuration left makes way; a checkpoint of the same one stays."""
        if not self.begun_by(key):
            for leftover in (self.checkpoint, self.record):
                leftover.unlink(missing_ok=True)
