"""A model file, opened once: every later step works on the bytes that were read, whatever happens to the path.

This is the only module that opens a model or its external data. A path is opened once, without waiting, and checked through
that descriptor: a directory, a FIFO, a device or a socket is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import onnx

from pipeline.errors import EnvironmentFailure, InputRejected
from pipeline.limits import limits, raised
from pipeline.onnx import absurd, external, guard
from pipeline.onnx.digest import Digests, digests, sha256
from pipeline.onnx.names import shown
from pipeline.results import FileDigest

# Without these a FIFO would wait for a writer, and a terminal could become this process's own.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}


@dataclass(frozen=True, eq=False)
class ModelFile:
    """One model as it was read, which passed the guard."""

    path: Path
    """Where it was read, for messages and for files that are written beside it; it is never opened again."""
    content: bytes
    """The bytes of the .onnx file."""
    beside: Mapping[str, bytes]
    """The content of the external data files, by path within the model's folder, in order of first use."""
    model: onnx.ModelProto
    """Parsed and checked, external data loaded. Not to be changed: ``message`` returns a copy for that."""

    @cached_property
    def digests(self) -> Digests:
        """Of the bytes, of the graph without weights, and of the weights."""
        return digests(self.content, self.beside.values(), self.model)

    @property
    def metadata(self) -> dict[str, str]:
        """The file's ``metadata_props``."""
        return {p.key: p.value for p in self.model.metadata_props}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of the file and of its external data."""
        return (self.path, *(self.path.parent / name for name in self.beside))

    @cached_property
    def external_data(self) -> tuple[FileDigest, ...]:
        """Name, digest and size of each external data file."""
        return tuple(
            FileDigest(name=PurePosixPath(name).name, sha256=sha256(data), bytes=len(data))
            for name, data in self.beside.items()
        )

    def message(self) -> onnx.ModelProto:
        """A new copy of the protobuf message as it is in the file, with external data not loaded."""
        return guard.parse(self.content, self.path.name)

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to the file or to its external data; nothing is opened."""
        for part in self.paths:
            with contextlib.suppress(OSError):
                if os.path.samefile(path, part):
                    return True
        return os.path.realpath(path) in map(os.path.realpath, self.paths)

    def at(self, path: Path) -> ModelFile:
        """The same bytes, moved to another path."""
        return ModelFile(path, self.content, self.beside, self.model)


def read(path: Path | str) -> ModelFile:
    """Read a model and its external data, once, and check them by every rule that needs no computation.

    Raises InputRejected (3), naming the rule, what the file has and what to do; EnvironmentFailure (74) for a file that this
    process may not read.
    """
    return from_bytes(Path(path), content(Path(path)))


def content(path: Path) -> bytes:
    """The bytes of a model file, unchecked. Raises what ``read`` does."""
    try:
        handle = os.open(path, _READ)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise _open_error(path, error) from None
    return _read_whole(handle, "A model", f"'{shown(str(path))}'", limits().model_bytes, "model_bytes")


def from_bytes(path: Path, content: bytes) -> ModelFile:
    """The model in the bytes that were read at ``path``; its external data are read now. Raises what ``read`` does."""
    model = guard.parse(content, path.name)
    guard.check_structure(model)
    beside = _beside(model, path.parent)
    external.load(model, beside)
    guard.check_values(model)
    guard.check_by_onnx(model)
    absurd.check(model)
    return ModelFile(path, content, beside, model)


def _beside(model: onnx.ModelProto, folder: Path) -> dict[str, bytes]:
    """The content of every external data file, by path; all paths are checked before any file is opened."""
    contents: dict[str, bytes] = {}
    room = limits().weights_bytes
    for place, tensor in external.data_files(model).items():
        description = f"'{shown(place)}' of tensor '{shown(tensor)}'"
        handle = _open_beside(folder, place, description)
        contents[place] = _read_whole(handle, "External data", description, room, "weights_bytes", links=1)
        room -= len(contents[place])
    return contents


def _open_beside(folder: Path, place: str, description: str) -> int:
    """A descriptor of a file in or below a folder, without following links. ``description`` is for messages."""
    parts = PurePosixPath(place).parts
    is_link = (os.path.islink(folder.joinpath(*parts[: i + 1])) for i in range(len(parts)))
    try:
        if os.open not in os.supports_dir_fd:
            if any(is_link):
                raise OSError(errno.ELOOP, "a symbolic link")
            return os.open(folder / place, _READ)
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = inner
            return os.open(parts[-1], _READ | os.O_NOFOLLOW, dir_fd=at)
        finally:
            os.close(at)
    except OSError as error:
        if error.errno == errno.ELOOP or any(is_link):
            raise InputRejected(
                f"External data is a file, not a symbolic link; {description} is one. Copy the real file beside the model"
                " (for Hugging Face: hf download ... --local-dir)."
            ) from None
        if error.errno not in _ABSENT:
            raise EnvironmentFailure(
                f"External data must be readable; {description} is not: {error.strerror}."
            ) from None
        raise InputRejected(
            f"External data must be there, beside the model; {description} is not ({error.strerror})."
        ) from None


def _open_error(path: Path, error: OSError | ValueError) -> InputRejected | EnvironmentFailure:
    if isinstance(error, OSError) and error.errno not in _ABSENT:
        return EnvironmentFailure(f"A model must be readable; '{shown(str(path))}' is not: {error.strerror}.")
    why = f" ({error.strerror})" if isinstance(error, OSError) and error.errno != errno.ENOENT else ""
    return InputRejected(f"A model is an ONNX file; there is none at '{shown(str(path))}'{why}.")


def _read_whole(
    handle: int, kind: str, description: str, limit_bytes: int, limit: str, *, links: int | None = None
) -> bytes:
    """All bytes of an open descriptor, which must be a regular file of at most ``limit_bytes``; closes it.

    ``links``: how many hard links the file must have; ``kind``, ``description`` and ``limit`` are for messages.
    """
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise InputRejected(
                f"{kind} is a regular file; {description} is {_kind(status.st_mode)}. Name the file itself."
            )
        if links is not None and status.st_nlink != links:
            raise InputRejected(
                f"{kind} is a file of its own; {description} has {status.st_nlink} hard links. Copy the file, so that it has one."
            )
        if status.st_size > limit_bytes:
            raise InputRejected(
                f"{kind} takes at most {limit_bytes} bytes; {description} has {status.st_size}. {raised(limit)}"
            )
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(status.st_size + 1)
    except OSError as error:
        raise EnvironmentFailure(f"{kind} must be readable; {description} is not: {error.strerror}.") from None
    finally:
        os.close(handle)
    if len(data) != status.st_size:
        raise InputRejected(
            f"{kind} is complete before it is read; the size of {description} changes. Start again when it is."
        )
    return data


def _kind(mode: int) -> str:
    """The kind of a file that is not a regular one, in words."""
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")
