"""Results of units of work, kept in a folder, so that a run that was stopped does not compute them again."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.system.seal import Foreign, Seal

Arrays = Mapping[str, np.ndarray]
EVERY = 3.0
"""Seconds between two writes."""


class Journal:
    """Results by key. New ones are written every few seconds, atomically, to a file (a part) of their own.

    A key and its samples identify one deterministic computation of the run that ``seal`` identifies. A part without a valid
    authentication code is not read, and is listed in ``foreign``. Without a folder nothing is kept beyond the process.
    """

    def __init__(self, folder: Path | None = None, seal: Seal | None = None, *, rank: int = 0):
        self.folder, self.seal, self.rank = folder if seal is not None else None, seal, rank
        self.foreign: list[Path] = []
        self._known: dict[str, dict[str, np.ndarray]] = {}
        self._new: dict[str, Arrays] = {}
        self._written, self._parts = time.monotonic(), 0
        for part in sorted(self.folder.glob("part-*.npz")) if self.folder is not None else ():
            if match := re.fullmatch(rf"part-{rank}-(\d{{1,12}})\.npz", part.name, re.ASCII):
                self._parts = max(self._parts, int(match[1]) + 1)
            self._read(part)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str, rows: np.ndarray) -> Arrays | None:
        """The result under this key for exactly these samples, or None."""
        arrays = self._known.get(key)
        return arrays if arrays is not None and np.array_equal(arrays["rows"], rows) else None

    def put(self, key: str, rows: np.ndarray, arrays: Arrays) -> None:
        """Keep a result; it is written within a few seconds, or by ``flush``."""
        if self.folder is None:
            return
        self._new[key] = {**arrays, "rows": rows}
        if time.monotonic() - self._written >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Write all results that are not on disk yet. Raises OSError where that fails."""
        self._written = time.monotonic()
        if self.folder is None or self.seal is None or not self._new:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"part-{self.rank}-{self._parts:06}.npz"
        members = {f"{key}:{name}": a for key, arrays in self._new.items() for name, a in arrays.items()}
        content = io.BytesIO()
        np.savez(content, **members)  # type: ignore[arg-type]
        self.seal.write(part, content.getvalue())
        self._new, self._parts = {}, self._parts + 1

    def _read(self, part: Path) -> None:
        assert self.seal is not None
        try:
            content = self.seal.read(part)
        except Foreign:
            self.foreign.append(part)
            return
        except OSError:  # a part that cannot be read is computed again
            return
        with np.load(io.BytesIO(content or b""), allow_pickle=False) as stored:
            for member in stored.files:
                key, _, name = member.rpartition(":")
                self._known.setdefault(key, {})[name] = stored[member]
