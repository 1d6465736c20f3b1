"""What has been computed so far, kept in a folder, so that a run that was stopped does not compute it again."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.atomic import replace_atomically

Arrays = Mapping[str, np.ndarray]
EVERY = 3.0
"""Seconds between two writes."""


class Journal:
    """Results by key. New ones are written every few seconds as a part of their own, which is there whole or not at all.

    A key and the samples it is about name one deterministic computation: which command they belong to, the folder's owner
    has checked. Without a folder nothing outlives the process.
    """

    def __init__(self, folder: Path | None = None, *, rank: int = 0):
        self.folder, self.rank = folder, rank
        self._known: dict[str, dict[str, np.ndarray]] = {}
        self._new: dict[str, Arrays] = {}
        self._written, self._parts = time.monotonic(), 0
        for part in sorted(folder.glob("part-*.npz")) if folder is not None and folder.is_dir() else ():
            if match := re.fullmatch(rf"part-{rank}-(\d+)\.npz", part.name):
                self._parts = max(self._parts, int(match[1]) + 1)
            self._read(part)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str, rows: np.ndarray) -> Arrays | None:
        """What was computed under this key for exactly these samples."""
        found = self._known.get(key)
        return found if found is not None and np.array_equal(found["rows"], rows) else None

    def put(self, key: str, rows: np.ndarray, arrays: Arrays) -> None:
        """Remember a result."""
        if self.folder is None:
            return
        self._new[key] = {**arrays, "rows": rows}
        if time.monotonic() - self._written >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is new. Raises OSError where the disk refuses."""
        self._written = time.monotonic()
        if self.folder is None or not self._new:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"part-{self.rank}-{self._parts:06}.npz"
        members = {f"{key}:{name}": a for key, arrays in self._new.items() for name, a in arrays.items()}
        content = io.BytesIO()
        np.savez(content, **members)  # type: ignore[arg-type]
        replace_atomically(part, content.getvalue())
        self._new, self._parts = {}, self._parts + 1

    def remove(self) -> None:
        """The run has finished: nothing of it is needed again."""
        self._new = {}
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, part: Path) -> None:
        # A part that cannot be read is computed again.
        with (
            contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile),
            np.load(part, allow_pickle=False) as stored,
        ):
            arrays = {member: stored[member] for member in stored.files}  # all of them, or none is known
            for member, array in arrays.items():
                key, _, name = member.rpartition(":")
                self._known.setdefault(key, {})[name] = array
