"""Data sets of the Hugging Face Hub, ``hf:NAME``, from its local cache or a folder; only ``download`` uses the network.

A name is resolved to one commit, which the notes of the data set state. Only data are read: the required version of `datasets`
runs no scripts, and a picture stored as a path is read only from the data set's own folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from pipeline.data import picture
from pipeline.data.dataset import Dataset, make
from pipeline.errors import EnvironmentFailure, InputRejected, PipelineError, UsageError
from pipeline.system.regular_file import require_below

OPTIONS = ("split", "revision", "name", "image", "label")
OLDEST = 4
"""Versions of `datasets` before this one could run a data set's own script."""
INSTALL = f"Run `pip install 'datasets>={OLDEST}'`."
ARRAYS = ("Array2D", "Array3D")


@dataclass(frozen=True)
class HubSource:
    """The parts of an ``hf:`` URI: a repository of the Hub or a folder, and the options."""

    name: str
    split: str | None = None
    revision: str | None = None
    config: str | None = None
    image: str | None = None
    label: str | None = None


def parse(rest: str) -> HubSource:
    """The parts of ``NAME[?split=..&revision=..&name=..&image=..&label=..]``. Raises UsageError."""
    name, _, query = rest.partition("?")
    options = {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise UsageError(f"hf:{rest} has unknown options {unknown}; known are {', '.join(OPTIONS)}.")
    if empty := [key for key, value in options.items() if not value]:
        raise UsageError(f"hf:{rest}: {empty[0]} is empty. Give it a value, or leave it out.")
    if "split" in options and not options["split"].replace("_", "").isalnum():
        raise UsageError(f"hf:{rest}: a split is a name, such as test; for some of its samples use --max-samples.")
    if "name" in options:
        options["config"] = options.pop("name")
    return HubSource(name, **options)


def read(source: HubSource, split: str, *, download: bool, uri: str) -> Dataset:
    """One split. Raises UsageError where it does not exist or is not on this disk, InputRejected for data that are not images
    with labels, EnvironmentFailure (74) without `datasets` or, with ``download``, without a network.
    """
    datasets = _library(uri)
    folder, commit = _folder(source, download, uri)
    require_below(folder)
    with _offline(datasets):
        try:
            splits = datasets.get_dataset_split_names(str(folder), config_name=source.config)
            if split not in splits:
                raise UsageError(f"{uri!r} has no split {split!r}, only {', '.join(splits)}. Say ?split={splits[0]}.")
            rows = datasets.load_dataset(str(folder), source.config, split=split, streaming=True)
            features = rows.features or rows._resolve_features().features
            image, label = _columns(features, source, uri)
            rows = rows.select_columns([image, label])
            if type(features[image]).__name__ == "Image":
                rows = rows.cast_column(image, datasets.Image(decode=False))
                images, labels = _pictures(rows, image, label, folder, uri)
            else:
                pairs = [(row[image], row[label]) for row in rows]
                images, labels = np.asarray([x for x, _ in pairs]), [y for _, y in pairs]
        except PipelineError:
            raise
        except Exception as error:  # `datasets` raises classes without a common base
            raise InputRejected(f"{uri!r} cannot be read: {str(error)[:400]}") from error
    if None in labels or (labels and min(labels) < 0):
        raise InputRejected(f"{uri!r}: samples of the split {split!r} have no label. Name a split that has labels.")
    names = getattr(features[label], "names", None)
    notes = [f"columns {image!r} and {label!r}"]
    if commit is not None:
        notes.append(f"revision {commit}" + ("" if source.revision else f", which &revision={commit} would pin"))
    return make(
        images,
        np.asarray(labels, np.int64),
        uri=uri,
        part=split,
        class_names=None if names is None else tuple(names),
        notes=tuple(notes),
    )


def _library(uri: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise EnvironmentFailure(f"{uri!r} needs the package datasets: {error}. {INSTALL}") from error
    if int(datasets.__version__.partition(".")[0]) < OLDEST:
        raise EnvironmentFailure(f"{uri!r} needs datasets {OLDEST} or newer; found {datasets.__version__}. {INSTALL}")
    return datasets


def _folder(source: HubSource, download: bool, uri: str) -> tuple[Path, str | None]:
    """The folder of the data, and their commit; None for data that were given as a folder."""
    if Path(source.name).is_dir():
        if source.revision is not None:
            raise UsageError(f"{uri!r} is a folder, which has no revisions. Leave revision out.")
        return Path(source.name).absolute(), None
    from huggingface_hub import snapshot_download

    where: Mapping[str, Any] = {"repo_type": "dataset", "revision": source.revision}
    try:
        folder = Path(snapshot_download(source.name, local_files_only=not download, **where))
    except (OSError, ValueError, RuntimeError) as error:
        if download:
            raise EnvironmentFailure(f"{uri!r} was not downloaded: {str(error)[:400]}") from error
        raise UsageError(
            f"{uri!r} is neither a folder nor, whole, in the cache of the Hub on this disk. Fetch it with --download."
        ) from error
    return folder, folder.name


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Keep the libraries from using the network, whatever the files of a data set refer to."""
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _columns(features: Mapping[str, Any], source: HubSource, uri: str) -> tuple[str, str]:
    """The names of the columns of images and of labels: those of the URI, else the only ones of such a type."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    columns = []
    for role, name, types in (("image", source.image, ("Image", *ARRAYS)), ("label", source.label, ("ClassLabel",))):
        fitting = [name] if name in kinds else [column for column, kind in kinds.items() if kind in types]
        if len(fitting) != 1 or name not in (None, *fitting):
            listed = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
            raise UsageError(f"{uri!r}: which column holds the {role}s? There are {listed}. Say &{role}=COLUMN.")
        columns += fitting
    return columns[0], columns[1]


def _pictures(rows: Any, image: str, label: str, folder: Path, uri: str) -> tuple[np.ndarray, list[int]]:
    files, labels = list[tuple[picture.File, str]](), list[int]()
    for index, row in enumerate(rows):
        content, path = row[image]["bytes"], row[image]["path"]
        if content is None:
            content = Path(os.path.normpath(path or ""))
            if folder not in content.parents:
                raise InputRejected(f"{uri!r}: the picture of row {index} lies outside the data set. Store its bytes.")
        files.append((content, f"row {index}"))
        labels.append(row[label])
    return picture.stack(files, of=uri), labels
