"""Data sets of the Hugging Face Hub, read from folders and from a cache as the Hub's own client leaves it; no network."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.data import has_part, load, without_folders
from pipeline.errors import EnvironmentFailure, InputRejected, UsageError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
Y = np.arange(9) % 3
NAMES = ("cat", "cow", "dog")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGE = {"_type": "Image"}
LABEL = {"_type": "ClassLabel", "names": list(NAMES)}


def kept(arrow):
    """As Arrow keeps a picture: what is in its file, or where that lies."""
    return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is an error, not a delay."""

    def refused(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """``store(folder, split=rows)`` writes Parquet as the Hub keeps it."""
    datasets = pytest.importorskip("datasets")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def call(
        folder: Path, *, label: dict = LABEL, image: dict = IMAGE, extra: dict | None = None, **splits: slice
    ) -> str:
        features = {"id": {"_type": "Value", "dtype": "int64"}, "img": image, "kind": label} | (extra or {})
        (folder / "data").mkdir(parents=True)
        for split, rows in splits.items():
            kinds = Y[rows].tolist()
            pictures = arrow.array([{"bytes": png(x), "path": None} for x in X[rows]], kept(arrow))
            columns = {"id": list(range(len(kinds))), "img": pictures, "kind": kinds}
            table = arrow.table(columns | dict.fromkeys(extra or {}, kinds))
            told = {"huggingface": json.dumps({"info": {"features": features}})}
            parquet.write_table(
                table.replace_schema_metadata(told), folder / "data" / f"{split}-00000-of-00001.parquet"
            )
        return f"hf:{folder}"

    return call


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_columns_are_found_by_their_types_and_splits_are_parts(store, tmp_path: Path) -> None:
    uri = store(tmp_path / "set", train=slice(0, 6), test=slice(6, 9))
    test = load(uri, part="test")
    assert np.array_equal(test.images, X[6:])
    assert np.array_equal(test.labels, Y[6:])
    assert (test.part, test.class_names) == ("test", NAMES)
    assert has_part(uri, "test")
    both = load(uri, part=None)
    assert np.array_equal(both.images, X)
    assert both.part == "all"
    one = load(f"{uri}?split=train", part="test")
    assert np.array_equal(one.images, X[:6])
    assert one.part == "train", "a split that is named is all of the source"
    assert not has_part(f"{uri}?split=train", "test")
    assert without_folders(f"{uri}?split=train") == "hf:set?split=train"


def test_the_cache_of_the_hub_is_read_at_the_revision_asked_for(store, tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    place = cache / "datasets--an--imal"
    store(place / "snapshots" / COMMIT, test=slice(0, 3))
    store(place / "snapshots" / COMMIT[::-1], test=slice(3, 9))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    latest = load("hf:an/imal", part="test")
    assert np.array_equal(latest.images, X[:3])
    assert any(f"&revision={COMMIT} would pin" in note for note in latest.notes)
    pinned = load(f"hf:an/imal?revision={COMMIT[::-1]}", part="test")
    assert np.array_equal(pinned.images, X[3:])
    assert f"revision {COMMIT[::-1]}" in pinned.notes
    assert without_folders(f"hf:an/imal?revision={COMMIT}") == f"hf:an/imal?revision={COMMIT}"
    for absent in ("hf:an/other", "hf:an/imal?revision=v2"):
        with pytest.raises(UsageError, match="--download"):
            load(absent, part="test")
    with pytest.raises(EnvironmentFailure, match="not downloaded"):
        load("hf:an/other", part="test", download=True)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?split=test", "only train"),
        ("?split=train[:3]", "--max-samples"),
        ("?colour=red", "known are split, revision"),
        ("?revision=main", "no revisions"),
        ("?label=", "empty"),
        ("?image=absent", "img .Image., kind .ClassLabel."),
    ],
)
def test_what_a_query_may_not_say(store, tmp_path: Path, query: str, says: str) -> None:
    uri = store(tmp_path / "set", train=slice(0, 6))
    with pytest.raises(UsageError, match=says):
        load(uri + query, part="train")
    with pytest.raises(UsageError, match=r"only train\. Say .split=train"):
        load(uri, part="test")


def test_of_two_columns_of_labels_one_must_be_named(store, tmp_path: Path) -> None:
    uri = store(tmp_path / "set", test=slice(0, 9), extra={"fine": {"_type": "ClassLabel", "names": list("abc")}})
    with pytest.raises(UsageError, match=r"which column holds the labels\? .*&label=COLUMN"):
        load(uri, part="test")
    assert load(f"{uri}?label=fine", part="test").class_names == ("a", "b", "c")
    assert load(f"{uri}?label=id", part="test").class_names is None


def test_hidden_labels_and_damaged_pictures_are_refused(store, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "Y", np.full(9, -1))
        with pytest.raises(InputRejected, match="have no label"):
            load(store(tmp_path / "hidden", test=slice(0, 3)), part="test")
    monkeypatch.setitem(globals(), "png", lambda pixels: b"no picture")
    with pytest.raises(InputRejected, match="'row 0' is not a readable image"):
        load(store(tmp_path / "damaged", test=slice(0, 3)), part="test")


def test_a_picture_outside_the_data_set_is_not_opened(store, tmp_path: Path, monkeypatch) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "secret.png").write_bytes(png(X[0]))
    uri = store(tmp_path / "set", test=slice(0, 1))
    (file,) = (tmp_path / "set" / "data").iterdir()
    for path in (tmp_path / "secret.png", f"{tmp_path}/set/../secret.png", "http://127.0.0.1:9/x.png", None):
        table = parquet.read_table(file)
        given = arrow.array([{"bytes": None, "path": None if path is None else str(path)}], table["img"].type)
        parquet.write_table(table.set_column(1, "img", given).replace_schema_metadata(table.schema.metadata), file)
        with pytest.raises(InputRejected, match="outside the data set"):
            load(uri, part="test")


def test_a_folder_of_pictures_is_one_too(tmp_path: Path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for x, y in zip(X, Y, strict=True):
        folder = tmp_path / "set" / "test" / NAMES[y]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{x[0, 0, 0]}.png").write_bytes(png(x))
    found = load(f"hf:{tmp_path / 'set'}", part="test")
    assert found.class_names == NAMES
    assert sorted(found.labels) == sorted(Y)


def test_scripts_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputRejected, match="scripts are no longer supported"):
        load(f"hf:{tmp_path / 'set'}", part="test")


def test_a_package_that_is_missing_or_old_is_named_with_the_line_that_installs_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EnvironmentFailure, match="pip install 'datasets>=4'"):
        load("hf:mnist", part="test")
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(__version__="3.6.0"))
    with pytest.raises(EnvironmentFailure, match=r"found 3\.6\.0"):
        load("hf:mnist", part="test")
