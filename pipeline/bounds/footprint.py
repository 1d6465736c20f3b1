"""What a computation takes: bytes of tensors alive at once, and the largest single piece of work, measured on one sample.

An estimate that counts tensors by hand forgets some; this runs the computation itself, once, and watches every tensor
that PyTorch makes for it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.core.floating_point import GROUP

T = TypeVar("T")
ROWS = 8
"""How many are measured at once."""
FILL = 0.8
"""The part of the memory allowed that tensors may take: the rest is for what libraries take inside, and for small blocks."""
STEP_FLOPS = 1 << 33
"""Floating point operations that one operator may do at once: about a second on one core, after which the clock is looked at."""


@dataclass(frozen=True)
class Footprint:
    """``peak`` bytes alive at once beyond those before, the ``flops`` of the largest operator, and the ``total`` of all."""

    peak: int
    flops: int
    total: int


@dataclass(frozen=True)
class Need:
    """What bounds of one batch take: bytes for each sample, bytes for each row of coefficients over it, and the most work of
    one operator for a sample and for a row.

    Measured with one sample: what does not grow with samples is counted again for each, which is on the safe side.
    """

    sample: int
    row: int
    sample_flops: int
    row_flops: int

    def samples(self, memory: int, rows: int, most: int) -> int:
        """How many samples fit beside ``rows`` rows each, or as many rows as one group, of at least one sample."""
        rows = min(rows, GROUP)
        work = max(self.sample_flops, rows * self.row_flops, 1)
        return max(1, min(most, memory // (self.sample + rows * self.row), STEP_FLOPS // work))

    def rows(self, memory: int, samples: int) -> int:
        """How many rows of that many samples fit: whole groups, where one does."""
        room = memory // samples - self.sample
        fit = max(1, min(room // max(self.row, 1), STEP_FLOPS // max(samples * self.row_flops, 1)))
        return fit // GROUP * GROUP if fit >= GROUP else fit

    @property
    def least(self) -> int:
        """Bytes for one row of one sample."""
        return self.sample + self.row


class _Watch(TorchDispatchMode):
    """Counts the bytes of storages from where they are made until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = self.total = 0
        self.counted: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # asking for it would import the compiler, which takes a second, and nothing here is compiled

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        arguments = {_storage(t)._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := _storage(tensor))._cdata not in arguments | self.counted:
                self._enter(storage)
        flops = _flops(func.overloadpacket.__name__, args, out)
        self.flops, self.total = max(self.flops, flops), self.total + flops
        self.peak = max(self.peak, self.live + _workspace(func, args, out))
        return out

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.counted.add(key)
        self.live += size
        weakref.finalize(storage, self._leave, key, size).atexit = False

    def _leave(self, key: int, size: int) -> None:
        self.counted.discard(key)
        self.live -= size


def measured(run: Callable[[], T]) -> tuple[T, Footprint]:
    """``run()``, and what it takes at most: what it returns counts, and so do tensors that it leaves behind."""
    with _Watch() as watch:
        result = run()
    return result, Footprint(watch.peak, watch.flops, watch.total)


def footprint(run: Callable[[], object]) -> Footprint:
    """What ``run()`` takes at most."""
    return measured(run)[1]


def need(over: Callable[[], T], lower: Callable[[T, int], object], memory: int, *, besides: int = 0) -> Need:
    """What ``lower(over(), rows)`` takes, of one sample; ``besides`` bytes of the sample are added.

    The peak of ``n`` rows is the largest of some ``a + n b``: that of one row bounds every ``a``, and that of ``ROWS`` rows,
    divided by them, every ``b``; so many are run where ``memory`` allows.
    """
    with torch.no_grad():
        bounds = over()
        forward, one = footprint(over), footprint(lambda: lower(bounds, 1))
        rows = max(1, min(ROWS, memory // max(one.peak, 1)))
        several = footprint(lambda: lower(bounds, rows))
    return Need(forward.peak + one.peak + besides, several.peak // rows, forward.flops, several.flops // rows)


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _flops(name: str, args: Sequence[Any], out: Any) -> int:
    """Floating point operations of a product of matrices or a convolution; nothing else takes long."""
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        a, b = args[-2:]
        return 2 * a.numel() * int(b.shape[-1])
    if name == "convolution":
        return 2 * math.prod(args[1].shape[1:]) * int(args[0].numel() if args[6] else out.numel())
    if name == "convolution_backward":
        return 4 * math.prod(args[2].shape[1:]) * int(args[0].numel())
    return 0


def _workspace(func: Any, args: Sequence[Any], out: Any) -> int:
    """What a convolution takes besides its result on a CPU: the patches that its kernel reads, of every sample at once.

    Its gradient is taken sample by sample. The groups of a grouped one are joined, which copies the result.
    """
    name = func.overloadpacket.__name__
    if name not in ("convolution", "convolution_backward"):
        return 0
    backward = name == "convolution_backward"
    value, weight = args[0], args[2 if backward else 1]
    transposed, groups = args[7 if backward else 6], args[9 if backward else 8]
    if backward:
        return int(
            value.element_size() * (math.prod(weight.shape[1:]) * math.prod(args[0].shape[2:]) + args[0].numel())
        )
    places = value if transposed else out
    patches = places.shape[0] * math.prod(places.shape[2:]) * math.prod(weight.shape[1:])
    return int(value.element_size() * (patches + (out.numel() if groups > 1 else 0)))
