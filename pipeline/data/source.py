"""Data URIs: npz:PATH, csv:PATH[?label=..], parquet:PATH, dir:PATH, torchvision:NAME[?root=DIR], hf:NAME, digits.

The scheme of a bare path is guessed, and a note of the data set states the guess.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs
from zipfile import ZipInfo

import numpy as np

from pipeline.data import digits, folder, hub, npz, table, vision
from pipeline.data.dataset import IN_MEMORY, Dataset, make
from pipeline.errors import InputRejected, UsageError

Part = Literal["train", "test"]
PARTS: tuple[Part, Part] = ("train", "test")
SCHEMES = ("npz", "csv", "parquet", "dir", "torchvision", "hf", "digits")
TABLES: tuple[table.Format, ...] = ("csv", "parquet")


def load(uri: str, *, part: Part | None, download: bool = False) -> Dataset:
    """The data that `uri` names, unscaled; all parts where `part` is None.

    A source without parts is returned as a whole, with `Dataset.part` "all"; one that has parts, but not `part`, is refused.
    Nothing is downloaded unless `download`.

    Raises UsageError for a URI that names no data, InputRejected for a malformed or unsafe file.
    """
    scheme, rest, notes = parse(uri)
    if scheme == "digits":
        dataset = digits.read(part)
    elif scheme == "npz":
        dataset = _load_npz(Path(rest), part, uri)
    elif scheme in TABLES:
        dataset = table.read(scheme, rest, uri=uri)
    elif scheme == "dir":
        dataset = _load_folder(Path(rest), part, uri)
    elif scheme == "hf":
        source = hub.parse(rest)
        splits = [source.split] if source.split else [part] if part else PARTS
        dataset = _join([hub.read(source, split, download=download, uri=uri) for split in splits])
    else:
        name, root = _vision_name(rest)
        wanted = [part] if part else PARTS
        dataset = _join([vision.read(name, p, root=root, download=download, uri=uri) for p in wanted])
    return replace(dataset, notes=(*notes, *dataset.notes))


def has_part(uri: str, part: Part) -> bool:
    """Whether the source keeps that part apart; a look at names only, nothing is loaded."""
    scheme, rest, _ = parse(uri)
    if scheme == "npz":
        return npz.has_pair(npz.members(Path(rest)), part)
    if scheme == "dir":
        return part in folder.parts(Path(rest))
    return scheme not in TABLES and (scheme != "hf" or hub.parse(rest).split is None)


def parse(uri: str) -> tuple[str, str, tuple[str, ...]]:
    """(scheme, rest, notes) of a URI; the scheme of a bare path is guessed from the file or folder. Raises UsageError."""
    scheme, colon, rest = uri.partition(":")
    if uri == "digits":
        return "digits", "", ()
    if colon and scheme in SCHEMES and rest:
        return scheme, rest, ()
    path = Path(uri)
    if path.is_dir():
        return "dir", uri, (f"{path.name!r} was taken as a folder of images",)
    if path.is_file() and path.suffix == ".npz":
        return "npz", uri, (f"{path.name!r} was taken as an npz archive",)
    if path.is_file() and path.suffix[1:] in TABLES:
        return path.suffix[1:], uri, (f"{path.name!r} was taken as a table",)
    if uri in vision.NAMES:
        raise UsageError(f"{uri!r} is no data URI. Did you mean torchvision:{uri}?")
    if os.path.lexists(path) and not path.is_file():
        raise InputRejected(f"Data are a file or a folder; {uri!r} is something else (a FIFO, a device, a dead link).")
    what = "a file that is no .npz, .csv or .parquet" if path.is_file() else "no file or folder of that name"
    raise UsageError(
        f"{uri!r} names no data: {what}. "
        f"Use npz:PATH, csv:PATH, parquet:PATH, dir:PATH, torchvision:NAME ({', '.join(vision.NAMES)}), hf:NAME or digits."
    )


def without_folders(uri: str) -> str:
    """The URI as reports state it: scheme and last name of the path, independent of the folder of the data."""
    if uri == IN_MEMORY:
        return uri
    scheme, rest, _ = parse(uri)
    if scheme == "torchvision":
        return f"torchvision:{rest.partition('?')[0]}"
    if scheme == "hf":
        name, mark, query = rest.partition("?")
        return f"hf:{Path(name).resolve().name if Path(name).is_dir() else name}{mark}{query}"
    path, mark, query = rest.partition("?") if scheme in TABLES else (rest, "", "")
    return f"{scheme}:{Path(path).resolve().name}{mark}{query}" if rest else scheme


def _load_npz(path: Path, part: Part | None, uri: str) -> Dataset:
    names = npz.members(path)
    present = [p for p in PARTS if npz.has_pair(names, p)]
    if not present and npz.has_pair(names, None):
        return _npz_pair(path, names, None, uri)
    if not present:
        raise InputRejected(
            f"{path.name!r} holds no images with labels; its arrays are {sorted(names)[:8]}. "
            "Name them x, y, or x_train, y_train, x_test, y_test."
        )
    return _join([_npz_pair(path, names, p, uri) for p in _wanted(part, present, uri)])


def _npz_pair(path: Path, names: dict[str, ZipInfo], part: Part | None, uri: str) -> Dataset:
    images, labels = (npz.read(path, npz.find(names, role, part) or "") for role in ("images", "labels"))
    return make(images, labels, uri=uri, part=part or "all")


def _load_folder(root: Path, part: Part | None, uri: str) -> Dataset:
    present = [p for p in PARTS if p in folder.parts(root)]
    if not present:
        return folder.read(root, uri=uri, part="all")
    return _join([folder.read(root / p, uri=uri, part=p) for p in _wanted(part, present, uri)])


def _wanted(part: Part | None, present: list[Part], uri: str) -> list[Part]:
    if part is None:
        return present
    if part not in present:
        raise UsageError(f"{uri!r} has no {part} part, only {', '.join(present)}. Name other data for the {part} part.")
    return [part]


def _vision_name(rest: str) -> tuple[str, Path]:
    name, _, query = rest.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    if set(options) - {"root"}:
        raise UsageError(f"torchvision:{rest} has unknown options {sorted(set(options) - {'root'})}; known is root.")
    return name, Path(options["root"][-1]) if "root" in options else vision.default_root()


def _join(parts: list[Dataset]) -> Dataset:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if len({p.images.shape[1:] for p in parts}) > 1 or len({p.images.dtype for p in parts}) > 1:
        raise InputRejected(f"{first.uri!r}: its parts hold different images: {[p.images.shape[1:] for p in parts]}.")
    if len({p.class_names for p in parts}) > 1:
        raise InputRejected(f"{first.uri!r}: its parts name different classes. Give both parts the same class folders.")
    images = np.concatenate([p.images for p in parts])
    labels = np.concatenate([p.labels for p in parts])
    notes = tuple(dict.fromkeys(note for p in parts for note in p.notes))
    return Dataset(images, labels, first.uri, "all", first.class_names, notes, first.feature_names)
