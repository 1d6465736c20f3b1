"""URIs: what each gives, what each refuses, and that nothing hostile is allocated or run."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import has_part, hold_out, load, select, without_folders
from pipeline.errors import Incomplete, InputRejected, UsageError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
Y = np.arange(6) % 3


def savez(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def raw_member(path: Path, payload: bytes, name: str = "x.npy", compression: int = zipfile.ZIP_STORED) -> str:
    labels = io.BytesIO()
    np.save(labels, Y)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, payload)
        archive.writestr("y.npy", labels.getvalue())
    return f"npz:{path}"


def npy_header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_digits_are_exact_sixteenths_in_fixed_parts() -> None:
    train, test, both = (load("digits", part=part) for part in ("train", "test", None))
    assert train.images.shape == (1437, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    assert len(both) == 1797
    assert train.images.dtype == np.float32
    assert np.array_equal(train.images * 16, np.round(train.images * 16))
    assert (train.images.min(), train.images.max()) == (0, 1)
    assert min(np.bincount(test.labels)) >= 35, "stratified"
    assert (train.part, test.part, both.part) == ("train", "test", "all")
    assert test.digest == "0ea6c1f247faa4635149e54551c715ec71cc54802eb7db49b56b20acd1cb5cd5"


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("data", "targets")])
def test_npz_without_parts_gives_all_of_itself(tmp_path: Path, names: tuple[str, str]) -> None:
    uri = savez(tmp_path / "a.npz", **dict(zip(names, (X, Y), strict=True)))
    for part in ("train", "test", None):
        dataset = load(uri, part=part)
        assert dataset.part == "all"
        assert np.array_equal(dataset.images, X)
        assert dataset.images.dtype == np.uint8
    assert not has_part(uri, "test")


@pytest.mark.parametrize("form", ["{}_{part}", "{part}_{}"])
def test_npz_parts(tmp_path: Path, form: str) -> None:
    arrays = {
        form.format(name, part=part): value
        for part, rows in (("train", slice(0, 4)), ("test", slice(4, 6)))
        for name, value in (("images", X[rows]), ("labels", Y[rows][:, None]))
    }
    uri = savez(tmp_path / "a.npz", **arrays)
    assert np.array_equal(load(uri, part="train").labels, Y[:4])
    assert np.array_equal(load(uri, part="test").images, X[4:])
    assert load(uri, part=None).digest == load(savez(tmp_path / "b.npz", x=X, y=Y), part=None).digest


def test_a_missing_part_is_never_replaced_by_another(tmp_path: Path) -> None:
    uri = savez(tmp_path / "a.npz", x_train=X, y_train=Y)
    assert has_part(uri, "train")
    with pytest.raises(UsageError, match="no test part, only train"):
        load(uri, part="test")


def test_the_digest_sees_values_labels_shape_and_type(tmp_path: Path) -> None:
    variants = [(X, Y), (X[::-1], Y), (X, Y[::-1]), (X.reshape(6, 48), Y), (X.astype(np.float32), Y)]
    digests = {load(savez(tmp_path / "a.npz", x=x, y=y), part=None).digest for x, y in variants}
    assert len(digests) == len(variants)


@pytest.mark.parametrize(
    ("images", "note"),
    [
        (X.astype(np.int64), "taken as uint8"),
        (X.astype(np.float64) / 255, "rounded from float64"),
        (X > 99, "booleans"),
        (X.astype(np.int32) - 300, "taken as float32"),
    ],
)
def test_other_number_types_are_converted_and_said(tmp_path: Path, images: np.ndarray, note: str) -> None:
    dataset = load(savez(tmp_path / "a.npz", x=images, y=Y), part=None)
    assert dataset.images.dtype in (np.uint8, np.float32)
    assert note in dataset.notes[0]


def test_labels_one_hot_as_columns_and_as_whole_floats(tmp_path: Path) -> None:
    for labels in (np.eye(3)[Y], Y[:, None], Y.astype(np.float64)):
        assert np.array_equal(load(savez(tmp_path / "a.npz", x=X, y=labels), part=None).labels, Y)


@pytest.mark.parametrize("labels", [np.full((6, 3), 1 / 3), Y + 0.5, Y[:5], np.array(list("abcdef"))])
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    with pytest.raises(InputRejected):
        load(savez(tmp_path / "a.npz", x=X, y=labels), part=None)


class Bomb:
    """Unpickled, this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    uri = savez(tmp_path / "a.npz", x=np.array([Bomb(trap)] * 6, dtype=object), y=Y)
    with pytest.raises(InputRejected, match="'x': contains pickled objects"):
        load(uri, part=None)
    assert not trap.exists()


def test_an_archive_bomb_is_refused_from_its_directory(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((6, 2**24), np.uint8), y=Y)
    with pytest.raises(InputRejected, match=r"'x'.*archive bomb"):
        load(f"npz:{tmp_path / 'a.npz'}", part=None)


@pytest.mark.parametrize("shape", ["(4398046511104,)", "(6, -1)", "(6, 2)", "(6, 1e9)", "__import__('os')"])
def test_a_header_that_does_not_match_what_is_stored_is_refused(tmp_path: Path, shape: str) -> None:
    with pytest.raises(InputRejected, match="member 'x'"):
        load(raw_member(tmp_path / "a.npz", npy_header(shape) + bytes(80)), part=None)


@pytest.mark.parametrize("dtype", ["<c8", "<U4", "<M8[s]", "|V8"])
def test_types_that_are_no_pixels_are_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(InputRejected, match="dtype"):
        load(raw_member(tmp_path / "a.npz", npy_header("(6,)", dtype) + bytes(96)), part=None)


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    savez(path, x=X, y=Y)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[300] ^= 255
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    for content, words in (
        (whole[:200], "no readable npz"),
        (b"", "no readable npz"),
        (damaged, "x"),
        (pointer, "LFS"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputRejected, match=words):
            load(f"npz:{path}", part=None)
    with pytest.raises(InputRejected, match="its arrays are"):
        load(savez(path, a=X, b=Y), part=None)


def write_images(root: Path, *, mode: str, size: tuple[int, int] = (5, 4)) -> None:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(2):
            Image.new(mode, size, number + 1 if mode == "L" else (number + 1, 0, 7)).save(root / name / f"{index}.png")


@pytest.mark.parametrize(("mode", "shape"), [("L", (4, 4, 5)), ("RGB", (4, 4, 5, 3))])
def test_a_folder_of_class_folders(tmp_path: Path, mode: str, shape: tuple[int, ...]) -> None:
    write_images(tmp_path, mode=mode)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    dataset = load(str(tmp_path), part=None)
    assert dataset.images.shape == shape
    assert dataset.class_names == ("cat", "dog")
    assert np.array_equal(dataset.labels, [0, 0, 1, 1])
    assert np.array_equal(dataset.images.reshape(4, -1)[:, 0], [1, 1, 2, 2])
    assert "taken as a folder" in dataset.notes[0]
    assert "1 files that are not images" in dataset.notes[1]


def test_a_folder_with_parts_and_a_class_that_is_called_train(tmp_path: Path) -> None:
    write_images(tmp_path / "a" / "train", mode="L")
    write_images(tmp_path / "a" / "test", mode="L")
    assert has_part(f"dir:{tmp_path / 'a'}", "test")
    assert load(f"dir:{tmp_path / 'a'}", part="test").part == "test"
    assert len(load(f"dir:{tmp_path / 'a'}", part=None)) == 8
    write_images(tmp_path / "b", mode="L")
    (tmp_path / "b" / "cat").rename(tmp_path / "b" / "train")
    assert not has_part(f"dir:{tmp_path / 'b'}", "train")
    assert load(f"dir:{tmp_path / 'b'}", part="train").class_names == ("dog", "train")


def test_bad_images_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, mode="L")
    Image.new("L", (9, 9)).save(tmp_path / "dog" / "odd.png")
    with pytest.raises(InputRejected, match=r"'odd.png' has \(9, 9\)"):
        load(f"dir:{tmp_path}", part=None)
    (tmp_path / "dog" / "odd.png").write_bytes(b"\x89PNG no")
    with pytest.raises(InputRejected, match=r"'odd.png' is not a readable image"):
        load(f"dir:{tmp_path}", part=None)


def write_mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 3), ("t10k", 2)):
        pixels = struct.pack(">4I", 0x803, n, 28, 28) + bytes(range(n)) * 784
        (raw / f"{part}-images-idx3-ubyte").write_bytes(pixels)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + bytes(range(n)))


def test_torchvision_from_a_root_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    write_mnist(tmp_path)
    dataset = load(f"torchvision:MNIST?root={tmp_path}", part="test")
    assert dataset.images.shape == (2, 28, 28)
    assert np.array_equal(dataset.labels, [0, 1])
    assert dataset.class_names is not None
    monkeypatch.setenv("PIPELINE_DATA", str(tmp_path))
    assert len(load("torchvision:MNIST", part=None)) == 5
    with pytest.raises(UsageError, match="--download"):
        load("torchvision:FashionMNIST", part="test")


@pytest.mark.parametrize(
    "uri", ["nowhere.npz", "CIFAR10", "ftp:x", "torchvision:ImageNet", "npz:", "torchvision:MNIST?a=1"]
)
def test_a_uri_that_names_nothing_says_what_would(uri: str) -> None:
    with pytest.raises(UsageError, match=r"torchvision:|known is root"):
        load(uri, part=None)


def test_a_bare_path_is_guessed_and_the_guess_is_said(tmp_path: Path) -> None:
    savez(tmp_path / "a.npz", x=X, y=Y)
    assert load(str(tmp_path / "a.npz"), part=None).notes == ("'a.npz' was taken as an npz archive",)


def test_a_uri_is_shown_without_the_folders_of_a_disk(tmp_path: Path) -> None:
    savez(tmp_path / "a.npz", x=X, y=Y)
    assert without_folders(str(tmp_path / "a.npz")) == without_folders(f"npz:{tmp_path}/a.npz") == "npz:a.npz"
    assert without_folders(f"dir:{tmp_path}/") == f"dir:{tmp_path.name}"
    assert without_folders(f"torchvision:MNIST?root={tmp_path}") == "torchvision:MNIST"
    assert without_folders("digits") == "digits"


def test_holding_out_splits_once_and_for_all() -> None:
    digits = load("digits", part="train")
    rest, held = hold_out(digits, 0.1, seed=3)
    assert len(held) == 144
    assert len(rest) + len(held) == len(digits)
    pool = {image.tobytes() for image in rest.images}
    assert sum(image.tobytes() in pool for image in held.images) == 0, "digits has no duplicate images"
    assert hold_out(digits, 0.1, seed=3)[1].digest == held.digest
    assert hold_out(digits, 0.1, seed=4)[1].digest != held.digest
    with pytest.raises(Incomplete):
        hold_out(digits.take(np.arange(3)), 0.1, seed=0)
    with pytest.raises(UsageError):
        hold_out(digits, 1.0, seed=0)


def test_selection_is_sorted_without_repeats_and_by_seed() -> None:
    chosen = select(1000, 200, 0)
    assert len(chosen) == 200
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, select(1000, 200, 0))
    assert not np.array_equal(chosen, select(1000, 200, 1))
    assert np.array_equal(select(5, None, 0), np.arange(5))
    assert np.array_equal(select(5, 9, 0), np.arange(5))
    with pytest.raises(UsageError):
        select(5, 0, 0)
