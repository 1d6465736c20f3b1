"""Reads the columns of a report's npz files, which are not trusted."""

from __future__ import annotations

import hashlib
import io
import re
import tokenize
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from pipeline.errors import Contradiction, InputRejected, UsageError
from pipeline.limits import limits, raised
from pipeline.methods import DECIDERS
from pipeline.results.facts import EXACT
from pipeline.results.result import SamplesFile
from pipeline.results.text import clean
from pipeline.system.regular_file import open_regular

# What zipfile and numpy raise for a damaged archive; numpy reads a member's header as Python reads a literal.
DAMAGED = (
    *(ValueError, KeyError, TypeError, EOFError, MemoryError, RuntimeError, SyntaxError, OverflowError),
    *(tokenize.TokenError, zipfile.BadZipFile),
)


def exact_radii(eps: np.ndarray) -> tuple[str, ...]:
    """A column of radii as exact numbers of bounded length. Raises ValueError."""
    texts = tuple(map(str, eps)) if eps.ndim == 1 and eps.dtype.kind == "U" else ("",)
    if wrong := [text for text in texts if not re.fullmatch(EXACT, text)]:
        raise ValueError(f"eps holds {wrong[0][:40]!r}, which is no exact number")
    return texts


def decider_codes(decided_by: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Codes into a file's own list of names, converted to codes into DECIDERS, which was shorter before. Raises ValueError."""
    in_file = names.tolist() if names.ndim == 1 and names.size <= 256 else None
    if in_file == DECIDERS:
        return decided_by
    if not in_file:
        raise ValueError(f"decided_by_names holds an array of shape {names.shape}")
    code_of, codes = {name: code for code, name in enumerate(DECIDERS)}, np.zeros(256, np.uint8)
    for code in np.unique(decided_by):
        name = in_file[code] if code < len(in_file) else "nothing with a name"
        if name not in code_of:
            raise ValueError(f"a sample is decided by {name!r:.40}")
        codes[code] = code_of[name]
    return codes[decided_by]


def require(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a column has the type that belongs to its name, and this shape."""
    types = {"verdict": "u1", "decided_by": "u1", "survived": "b1", "undecided": "b1"}
    real = name in ("margin_lower", "largest_eps", "image")
    if array.dtype.str[1:] not in (("f4", "f8") if real else (types.get(name, "i8"),)) or array.shape != shape:
        raise ValueError(f"{name} holds {array.dtype} of shape {array.shape}, where the others want {shape}")


def arrays_of(path: Path, expected: SamplesFile | None) -> dict[str, np.ndarray]:
    """The arrays of a file, whose digest must be the expected one. Raises UsageError, InputRejected or Contradiction."""
    try:
        with open_regular(path) as file:
            content = file.read(limits().data_bytes + 1)
    except OSError as error:
        raise UsageError(f"No samples file {str(path)!r}: {error.strerror}. Name the folder of a report.") from error
    if len(content) > limits().data_bytes:
        raise InputRejected(f"{path.name!r} has more than {limits().data_bytes} bytes. {raised('data_bytes')}")
    if expected is not None and hashlib.sha256(content).hexdigest() != expected.sha256:
        raise Contradiction(f"{path.name!r} is not the file that its report describes. Certify again.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its members are compressed, as those of a report never are")
            stored = {name.removesuffix(".npy"): io.BytesIO(archive.read(name)) for name in archive.namelist()}
        # Not numpy.load, which gives the bytes of a member that is no array.
        return {name: npy.read_array(member, allow_pickle=False) for name, member in stored.items()}
    except DAMAGED as error:
        raise InputRejected(f"{path.name!r} is no file of a report: {clean(error)}. Certify again.") from error
