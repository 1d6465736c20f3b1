"""Which value of the file a node of the Network computes, and how the file lays that value out."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.core.network import Network

Axes = tuple[tuple[int, ...], ...]
"""Each axis of the file's value as a product of axes of the node's, the slowest first; see ``laid.py``."""


class Mismatch(Exception):
    """A value of the file that has no place in the shape of its node: ``shapes`` are both."""

    def __init__(self, theirs: tuple[int, ...], ours: tuple[int, ...]):
        super().__init__(f"{list(theirs)} is not {list(ours)}")
        self.shapes = (theirs, ours)


def value_of(network: Network, node: str) -> str:
    """The file's value that a node computes; empty for a step on the way to one."""
    provenance = network.provenance
    if node in provenance.inserted:  # a BatchNorm takes over the name of the value that it normalises
        return provenance.nodes[provenance.inserted[node]].output
    origin = provenance.nodes.get(node)
    if origin is None or origin.axes == () or node in provenance.inserted.values():
        return ""
    return origin.output


def in_layout_of(value: np.ndarray, axes: Axes | None, shape: torch.Size) -> Tensor:
    """A value of the file in the layout of its node, whose shape is given; larger where the node leaves broadcasting to its
    readers. Raises Mismatch.
    """
    theirs = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    if axes is not None:
        order = [axis for group in axes for axis in group]
        if sorted({*order}) != sorted(order) or math.prod(shape[a] for a in order) != theirs.numel():
            raise Mismatch(tuple(value.shape), tuple(shape))
        missing = [axis for axis in range(len(shape)) if axis not in order]  # of size one
        factors = theirs.reshape([*(shape[a] for a in order), *(1 for _ in missing)])
        theirs = factors.permute([(order + missing).index(axis) for axis in range(len(shape))])
    if theirs.shape == shape:
        return theirs
    if [d for d in theirs.shape if d != 1] == [d for d in shape if d != 1]:
        return theirs.reshape(shape)
    try:
        wider = torch.broadcast_shapes(theirs.shape, shape) == theirs.shape
    except RuntimeError:
        wider = False
    if not wider:
        raise Mismatch(tuple(value.shape), tuple(shape))
    return theirs
