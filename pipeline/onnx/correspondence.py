"""Which value of the file a node of the Network computes, and in which layout the file has that value."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.core.network import Network
from pipeline.core.shapes import broadcast_shape

Axes = tuple[tuple[int, ...], ...]
"""Each axis of the file's value as a product of axes of the node's, the slowest first; see ``passes/batch_layout.py``."""


class Mismatch(Exception):
    """A value of the file does not fit the shape of its node; ``shapes``: the file's and the node's."""

    def __init__(self, file_shape: tuple[int, ...], node_shape: tuple[int, ...]):
        super().__init__(f"{list(file_shape)} is not {list(node_shape)}")
        self.shapes = (file_shape, node_shape)


def value_of(network: Network, node: str) -> str:
    """The file's value that a node computes; empty for an intermediate step within one of the file's operators."""
    provenance = network.provenance
    if node in provenance.inserted:  # a BatchNorm takes over the name of the value that it normalises
        return provenance.nodes[provenance.inserted[node]].output
    origin = provenance.nodes.get(node)
    if origin is None or origin.axes == () or node in provenance.inserted.values():
        return ""
    return origin.output


def in_layout_of(value: np.ndarray, axes: Axes | None, shape: torch.Size) -> Tensor:
    """A value of the file in the layout of its node, which has ``shape``; larger where the node leaves broadcasting to its
    readers. Raises Mismatch where it does not fit.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    if axes is not None:
        order = [axis for group in axes for axis in group]
        if sorted({*order}) != sorted(order) or math.prod(shape[a] for a in order) != tensor.numel():
            raise Mismatch(tuple(value.shape), tuple(shape))
        missing = [axis for axis in range(len(shape)) if axis not in order]  # of size one
        factors = tensor.reshape([*(shape[a] for a in order), *(1 for _ in missing)])
        tensor = factors.permute([(order + missing).index(axis) for axis in range(len(shape))])
    if tensor.shape == shape:
        return tensor
    if [d for d in tensor.shape if d != 1] == [d for d in shape if d != 1]:
        return tensor.reshape(shape)
    try:
        wider = broadcast_shape(tensor.shape, shape) == tensor.shape
    except ValueError:
        wider = False
    if not wider:
        raise Mismatch(tuple(value.shape), tuple(shape))
    return tensor
