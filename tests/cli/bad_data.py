"""Data that strangers might send: each function writes ``d.npz`` (or a folder ``d``) broken or hostile in one way."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

Make = Callable[[Path], object]
X = np.random.default_rng(0).random((4, 6), dtype=np.float32)
Y = np.arange(4) % 3


def arrays(x: object = X, y: object = Y) -> Make:
    return lambda folder: np.savez(folder / "d.npz", x=x, y=y)


class Trap:
    """Unpickled, this writes a file."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("executed"),))


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def member(payload: bytes, name: str = "x.npy", method: int = zipfile.ZIP_STORED) -> Make:
    """An archive whose images are these bytes."""

    def make(folder: Path) -> None:
        labels = io.BytesIO()
        np.save(labels, Y)
        with zipfile.ZipFile(folder / "d.npz", "w", method) as archive:
            archive.writestr(name, payload)
            archive.writestr("y.npy", labels.getvalue())

    return make


def bomb(folder: Path) -> None:
    """A quarter of a gibibyte in a quarter of a mebibyte."""
    with zipfile.ZipFile(folder / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w") as file:
            file.write(header("(4, 16777216)"))
            for _ in range(256):
                file.write(bytes(2**20))
        labels = io.BytesIO()
        np.save(labels, Y)
        archive.writestr("y.npy", labels.getvalue())


def cut(folder: Path) -> None:
    np.savez(folder / "d.npz", x=X, y=Y)
    (folder / "d.npz").write_bytes((folder / "d.npz").read_bytes()[:200])


def written(content: bytes) -> Make:
    return lambda folder: (folder / "d.npz").write_bytes(content)


def png(width: int, height: int) -> bytes:
    """A valid grey picture of any size, all black, in a few bytes a megapixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def picture(content: bytes, name: str = "0.png") -> Make:
    def make(folder: Path) -> None:
        for kind in ("cat", "dog"):
            (folder / "d" / kind).mkdir(parents=True)
            (folder / "d" / kind / name).write_bytes(content)

    return make
