"""Where a value of ONNX Runtime lies outside what the import allows for it, and how that is said."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.floating_point import TINY32
from pipeline.core.interval import Interval
from pipeline.core.network import Network
from pipeline.onnx.tolerance import TOLERANCE, Value


@dataclass(frozen=True)
class Difference:
    """Where the runtime's value first lies outside the import's interval: the node, the point, and the entry of its value."""

    node: str
    point: int
    entry: tuple[int, ...]
    numbers: tuple[float, ...] = ()
    """The runtime's number, and the two ends of the import's interval."""
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    """The runtime's shape and the import's, where those differ."""

    def describe(self, network: Network) -> str:
        """The difference in words, by the file's names."""
        origin = network.origin(self.node)
        if self.shapes is not None:
            runtime_shape, import_shape = (list(shape) for shape in self.shapes)
            return f"the first node that differs is {origin}: its value has shape {runtime_shape}, in the import {import_shape}"
        value, low, high = self.numbers
        allowed = f"{low:.9g}" if low == high else f"between {low:.9g} and {high:.9g}"
        return (
            f"the first node that differs is {origin}: entry {list(self.entry)} of its value is {value:.9g}, the import allows"
            f" {allowed} for the same inputs"
        )

    def describe_output(self) -> str:
        """In words, of an output whose interval was propagated from the inputs."""
        if self.shapes is not None:
            return f"its output has shape {list(self.shapes[0])}, in the import {list(self.shapes[1])}"
        value, low, high = self.numbers
        return (
            f"entry {list(self.entry)} of its output is {value:.9g}, where its own graph allows {low:.9g} to {high:.9g}"
        )


def entry_outside(node: str, value: Value, runtime_value: Tensor, start: int) -> list[Difference]:
    """The first entry of the runtime's value outside ``value``, whose entries that are not finite allow anything."""
    measured = runtime_value.double()
    if isinstance(value, Interval):
        low, high = value.lower, value.upper
    else:
        exact = value.double()
        size = exact.abs() * TOLERANCE + TINY32 if value.is_floating_point() else torch.zeros_like(exact)
        low, high = exact - size, exact + size
    if bool(((measured >= low) & (measured <= high)).all()):
        return []
    bad = (measured < low) | (measured > high) | (measured.isnan() & low.isfinite() & high.isfinite())
    if not bool(bad.any()):
        return []
    entry = tuple(int(i) for i in bad.nonzero()[0])
    numbers = tuple(float(v.expand_as(bad)[entry]) for v in (measured, low, high))
    return [Difference(node, start + (entry[0] if entry else 0), entry, numbers)]
