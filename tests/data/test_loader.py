"""Batches: functions of (seed, epoch) alone, of one static shape, augmented as a plain loop would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.data import Augment, Loader
from pipeline.data.loader import augment_rows
from pipeline.errors import Incomplete, UsageError

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
    ),
]
IMAGES = np.random.default_rng(0).random((23, 2, 5, 6), dtype=np.float32)
LABELS = np.arange(23)
BOTH = Augment(crop=2, flip=True)


def make(batch_size: int = 5, *, augment: Augment = BOTH, device: str = "cpu") -> Loader:
    return Loader(IMAGES, LABELS, batch_size=batch_size, seed=7, augment=augment, device=device)


def gather(loader: Loader, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = zip(*loader.epoch(epoch), strict=True)
    return torch.cat(xs).cpu(), torch.cat(ys).cpu()


@pytest.mark.parametrize("device", DEVICES)
def test_an_epoch_depends_on_seed_and_number_alone(device: str) -> None:
    loader = make(device=device)
    third = gather(loader, 3)
    gather(loader, 0)
    again, reference = gather(loader, 3), gather(make(), 3)
    for got in (again, reference):
        assert torch.equal(third[0], got[0])
        assert torch.equal(third[1], got[1])
    assert not torch.equal(third[1], gather(loader, 4)[1])


@pytest.mark.parametrize("augment", [BOTH, Augment()])
@pytest.mark.parametrize("device", DEVICES)
def test_bytes_are_kept_as_bytes_and_served_to_the_last_bit(device: str, augment: Augment) -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(6).reshape(-1, 2, 4, 6).astype(np.float32) / np.float32(255)
    nearly = pixels.copy()
    nearly[-1, 0, 0, 0] = np.nextafter(nearly[-1, 0, 0, 0], 2, dtype=np.float32)
    labels, given = np.arange(len(pixels)), []
    for images in (pixels, nearly):
        given.append(Loader(images, labels, batch_size=8, seed=7, augment=augment, device=device))
    packed, plain = given
    assert packed.images.dtype == torch.uint8
    assert plain.images.dtype == torch.float32
    plain.images = torch.from_numpy(pixels).to(device)
    for (x, _), (wanted, _) in zip(packed.epoch(1), plain.epoch(1), strict=True):
        assert torch.equal(x, wanted)


def test_full_batches_only_and_no_sample_twice() -> None:
    batches = list(make().epoch(0))
    assert [len(y) for _, y in batches] == [5] * 4
    assert len(batches) == len(make())
    assert len({int(y) for _, ys in batches for y in ys}) == 20
    assert [len(y) for _, y in make(100).epoch(0)] == [23], "a single partial batch is kept"


def test_without_augmentation_images_follow_their_labels() -> None:
    x, y = gather(make(augment=Augment()), 0)
    assert torch.equal(x, torch.from_numpy(IMAGES)[y])


def test_augmentation_does_not_depend_on_the_batch_size() -> None:
    x, y = gather(make(5), 2)
    wide, labels = gather(make(10), 2)
    assert torch.equal(x, wide)
    assert torch.equal(y, labels)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_shift_and_flip_equal_pad_crop_and_mirror(layout: str) -> None:
    images = torch.from_numpy(IMAGES)
    rows, shift = torch.tensor([4, 0, 4, 9]), torch.tensor([[0, 2, -2, 1], [0, -2, 1, 2]])
    flip = torch.tensor([False, True, False, True])
    given = images if layout == "NCHW" else images.permute(0, 2, 3, 1)
    got = augment_rows(given, rows, shift, flip, layout=layout)
    got = got if layout == "NCHW" else got.permute(0, 3, 1, 2)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    for index, row in enumerate(rows):
        down, right = (int(s) + 2 for s in shift[:, index])
        expected = padded[row, :, down : down + 5, right : right + 6]
        assert torch.equal(got[index], expected.flip(-1) if flip[index] else expected)


def test_every_shift_and_both_mirrorings_occur() -> None:
    ramp = torch.arange(7.0).expand(1, 7, 7).repeat(600, 1, 1, 1)
    loader = Loader(ramp, torch.zeros(600, dtype=torch.int64), batch_size=600, seed=0, augment=Augment(1, True))
    ((x, _),) = loader.epoch(0)
    seen = {tuple(row.tolist()) for row in x[:, 0, 3]}
    assert len(seen) == 6


def test_refusals() -> None:
    with pytest.raises(Incomplete):
        Loader(IMAGES[:0], LABELS[:0], batch_size=5, seed=0)
    with pytest.raises(UsageError, match="three axes"):
        Loader(IMAGES.reshape(23, -1), LABELS, batch_size=5, seed=0, augment=Augment(flip=True))
    with pytest.raises(UsageError):
        Loader(IMAGES, LABELS, batch_size=0, seed=0)
