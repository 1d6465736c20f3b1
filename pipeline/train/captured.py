"""A step of tensors that a GPU launches as one graph: nothing of it stays on the host but the copies of its arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

WARM = 3
"""So many calls run as they are before one is captured: libraries choose their algorithms, and compilers compile."""


class Captured:
    """``function`` of tensors of shapes that never change, called for its effects on tensors that stay in place.

    Its arguments are copied into tensors of its own. On a CUDA device the call after ``WARM`` others is captured as a graph (a
    capture runs nothing), and that call and all later ones launch it; on any other device every call runs the function on the
    same copies. Python in it runs when it is captured and not when it is launched: whatever such Python reads belongs to the
    ``key``, and a call under another key captures anew.
    """

    def __init__(self, function: Callable[..., None], device: torch.device):
        self.function, self.cuda = function, device.type == "cuda"
        self.arguments: list[Tensor] = []
        self.key: Hashable = None
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, key: Hashable, *arguments: Tensor) -> None:
        """Run ``function(*arguments)``, or launch its graph."""
        if not self.arguments:
            self.arguments = [torch.empty_like(a) for a in arguments]
        torch._foreach_copy_(self.arguments, list(arguments))
        if key != self.key:
            self.key, self.calls, self.graph = key, 0, None
        self.calls += 1
        self.launch()

    def launch(self) -> None:
        """The step itself, its arguments in place."""
        if not self.cuda:
            self.function(*self.arguments)
        elif self.calls <= WARM:
            self._aside()
        else:
            if self.graph is None:
                self.graph = self._capture()
            self.graph.replay()

    def _aside(self) -> None:
        """Run on a stream of its own, as what is captured will be: autograd remembers on which stream a parameter was read."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # An optimiser that can be captured advises against itself where it is not.
            warnings.filterwarnings("ignore", message=".*capturable")
            self.function(*self.arguments)
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.function(*self.arguments)
        return graph
