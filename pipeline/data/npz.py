"""Untrusted npz archives: every header is checked before anything is allocated.

No object array is ever unpickled. An archive bomb is refused by its directory alone.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from pipeline.errors import InputRejected, UsageError
from pipeline.limits import limits, raised
from pipeline.system.regular_file import open_regular

BOMB_BYTES = 64 * 2**20
# What zipfile and numpy raise for a damaged member; numpy reads its header as Python reads a literal.
DAMAGED = (
    *(ValueError, TypeError, EOFError, RuntimeError, OSError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)

ALIASES = {"images": ("x", "images", "data"), "labels": ("y", "labels", "targets")}


def members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The arrays of an archive by name, from its directory. Raises UsageError (no file) or InputRejected."""
    try:
        with open_regular(path) as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                raise InputRejected(f"{path.name!r} is a Git LFS pointer, not data. Run `git lfs pull`.")
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"No file {str(path)!r}. Name an existing npz file: npz:PATH.") from None
    # NotImplementedError is how zipfile says that it lacks a compression or an encryption.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        reason = str(error)[:200]
        raise InputRejected(
            f"{path.name!r} is no readable npz archive: {reason}. Write it with numpy.savez."
        ) from error
    by_name = {entry.filename.removesuffix(".npy"): entry for entry in entries}
    if len(by_name) != len(entries):
        raise InputRejected(f"{path.name!r} names a member twice. Write it again with numpy.savez.")
    return by_name


def find(names: dict[str, zipfile.ZipInfo], role: str, part: str | None) -> str | None:
    """The name of the member with the `role` ("images" or "labels") of `part`, among the usual names; None if absent."""
    for alias in ALIASES[role]:
        for name in (f"{alias}_{part}", f"{part}_{alias}") if part else (alias,):
            if name in names:
                return name
    return None


def has_pair(names: dict[str, zipfile.ZipInfo], part: str | None) -> bool:
    """Whether the archive has both images and labels of `part`."""
    return all(find(names, role, part) for role in ALIASES)


def read(path: Path, name: str) -> np.ndarray:
    """One array of an archive, its header checked against the size that the directory states.

    Raises InputRejected, naming the member, for pickles, odd dtypes, wrong or absurd sizes and damaged data.
    """
    where = f"{path.name!r}, member {name!r}"
    entry = members(path).get(name)
    if entry is None:
        raise InputRejected(f"{where}: it was there a moment ago; the file was changed meanwhile. Start again.")
    most, ratio = limits().data_bytes, limits().archive_ratio
    if entry.file_size > most:
        raise InputRejected(f"{where}: {entry.file_size} bytes, more than the {most} allowed. {raised('data_bytes')}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputRejected(
            f"{where}: compressed by method {entry.compress_type} of zip; numpy writes 0 and 8, which are read. Write it again "
            "with numpy.savez or numpy.savez_compressed."
        )
    if entry.file_size > BOMB_BYTES and entry.file_size > ratio * max(entry.compress_size, 1):
        raise InputRejected(
            f"{where}: {entry.compress_size} bytes expand to {entry.file_size}, more than {ratio}-fold; refused "
            "as an archive bomb. If the data are really so uniform, store them with numpy.savez (uncompressed)."
        )
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            _check_header(archive, entry, where)
            with archive.open(entry) as stream:
                return npy.read_array(stream, allow_pickle=False)
    except DAMAGED as error:
        reason = str(error)[:200]
        raise InputRejected(f"{where}: damaged or not an array: {reason}. Write it again with numpy.savez.") from error


def _check_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> None:
    with archive.open(entry) as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise InputRejected(f"{where}: npy format {version} is not read. Store a plain array of numbers.")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        stored = entry.file_size - stream.tell()
    if dtype.hasobject:
        raise InputRejected(
            f"{where}: contains pickled objects; refused, since unpickling can run code. Store plain arrays of numbers."
        )
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise InputRejected(f"{where}: dtype {dtype} is no image or label. Store uint8, float32 or integers.")
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared != stored:
        raise InputRejected(
            f"{where}: the header declares shape {shape} of {dtype}, {declared} bytes, "
            f"but {stored} are stored. The file is damaged or forged; write it again with numpy.savez."
        )
