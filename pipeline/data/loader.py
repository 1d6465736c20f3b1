"""Training batches, kept on the device; shuffling and augmentation are functions of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.errors import Incomplete, UsageError


@dataclass(frozen=True)
class Augment:
    """Random shifts of up to `crop` pixels, the edge repeated, and horizontal flips with probability 1/2."""

    crop: int = 0
    flip: bool = False

    def __bool__(self) -> bool:
        return self.crop > 0 or self.flip


class Loader:
    """Images and labels on one device, served as shuffled batches of one static shape.

    The last partial batch of an epoch is dropped when there is more than one batch. What an epoch contains depends
    on (seed, epoch) alone: not on the device, on earlier epochs, or, for the augmentation, on the batch size. Images that
    were bytes divided by 255 are kept as bytes, a quarter of the memory, and divided again batch by batch.

    Raises Incomplete for no samples, UsageError for a batch size below one or an augmentation of flat inputs.
    """

    def __init__(
        self,
        images: Float[np.ndarray | Tensor, " n *sample"],
        labels: Int64[np.ndarray | Tensor, " n"],
        *,
        batch_size: int,
        seed: int,
        augment: Augment = Augment(),
        device: torch.device | str = "cpu",
        layout: Literal["NCHW", "NHWC", "flat"] = "NCHW",
    ) -> None:
        self.images = pack(torch.as_tensor(images), torch.device(device))
        self.labels = torch.as_tensor(labels, device=device)
        if len(self.labels) == 0:
            raise Incomplete("There are no samples to train on. Check the data and its part.")
        if batch_size < 1:
            raise UsageError(f"The batch size must be at least 1; received {batch_size}.")
        if augment and self.images.ndim != 4:
            raise UsageError(
                f"Crops and flips need images of three axes; the model's input is {tuple(self.images.shape[1:])}. "
                "Switch the augmentation off."
            )
        self.batch_size = min(batch_size, len(self.labels))
        self.seed, self.augment, self.layout = seed, augment, layout

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int) -> Iterator[tuple[Float[Tensor, " b *sample"], Int64[Tensor, " b"]]]:
        """The batches (x, y) of one epoch."""
        n, device = len(self.labels), self.images.device
        # Drawn on the CPU, once an epoch, so that a GPU sees the same numbers.
        draw = _generator(self.seed, epoch, stream=0)
        order = torch.randperm(n, generator=draw).to(device)
        draw = _generator(self.seed, epoch, stream=1)
        shift = torch.randint(-self.augment.crop, self.augment.crop + 1, (2, n), generator=draw).to(device)
        flip = torch.rand(n, generator=draw).to(device) < (0.5 if self.augment.flip else 0.0)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            rows = order[start : start + self.batch_size]
            yield self._images(rows, shift[:, rows], flip[rows]), self.labels[rows]

    def _images(self, rows: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
        if not self.augment:
            return unpack(self.images[rows])
        return unpack(augment_rows(self.images, rows, shift, flip, layout=self.layout))


def pack(images: Tensor, device: torch.device) -> Tensor:
    """Images on the device: as bytes where `unpack` restores every float32 bit for bit, else unchanged."""
    if images.dtype != torch.float32:
        return images.to(device)
    packed = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for some, into in zip(images.split(1024), packed.split(1024), strict=True):
        pixels = some.to(device)
        into.copy_((pixels * 255).round_().clamp_(0, 255))
        if not torch.equal(unpack(into), pixels):
            return images.to(device)
    return packed


def unpack(images: Tensor) -> Tensor:
    """Bytes divided by 255, other types unchanged; the divisor is a tensor, since CUDA multiplies by the inverse of a number."""
    if images.dtype != torch.uint8:
        return images
    return images.to(torch.float32).div_(torch.full((), 255.0, device=images.device))


def augment_rows(images: Tensor, rows: Tensor, shift: Tensor, flip: Tensor, *, layout: str) -> Tensor:
    """The images of `rows` (b,), shifted by `shift` (2, b) pixels with repeated edges, mirrored where `flip` (b,): one gather."""
    if layout == "NHWC":
        return augment_rows(images.movedim(3, 1), rows, shift, flip, layout="NCHW").movedim(1, 3)
    channels, height, width = images.shape[1:]
    channel, down, right = (torch.arange(size, device=images.device) for size in (channels, height, width))
    y = (down + shift[0, :, None]).clamp(0, height - 1)
    right = torch.where(flip[:, None], width - 1 - right, right)
    x = (right + shift[1, :, None]).clamp(0, width - 1)
    return images[rows[:, None, None, None], channel[:, None, None], y[:, None, :, None], x[:, None, None, :]]


def _generator(seed: int, epoch: int, *, stream: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))
