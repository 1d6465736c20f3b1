"""How a training step is computed, as opposed to what it computes: the precision of products, compilation, memory layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pipeline.errors import UsageError

Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_PRODUCTS = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}

LONG = 5_000
"""A GPU makes up for the time of compiling after so many steps: it takes a minute and saves 17 ms a step (docs/results.md)."""


@dataclass(frozen=True)
class Execution:
    """``precision``: of matrix products and convolutions in training steps; certification never uses it.

    Under ``bf16`` weights, batch statistics, moments, margins, losses and the optimiser stay in float32. ``compiled`` has
    torch.compile fuse what stands between the products, with CUDA graphs on a GPU; ``channels_last`` is the layout of images;
    ``graph`` launches a step, optimiser included, as one CUDA graph (see ``Captured``).
    """

    precision: Precision = "fp32"
    compiled: bool = False
    channels_last: bool = False
    graph: bool = False
    note: str = ""
    """Why this differs from what the user chose, if it does."""

    @classmethod
    def default(cls, device: torch.device | str, steps: int = 0) -> Execution:
        """The choice for a run of so many steps where the user makes none.

        On a GPU products are in TF32, PyTorch's own default for convolutions, and steps are compiled from ``LONG`` steps on.
        bfloat16 failed on a network of the paper's width (docs/results.md), so that it is never a default.
        """
        gpu = torch.device(device).type == "cuda"
        return cls("tf32" if gpu else "fp32", compiled=gpu and steps >= LONG, channels_last=gpu)

    @classmethod
    def of(
        cls,
        device: torch.device | str,
        precision: Precision | None = None,
        compiled: bool | None = None,
        graph: bool | None = None,
        *,
        steps: int = 0,
    ) -> Execution:
        """The default of a device for a run of so many steps, with each choice that is given in its place.

        Raises UsageError (2) for a precision that the device does not have.
        """
        kind, usual = torch.device(device).type, cls.default(device, steps)
        precision = precision or usual.precision
        if precision == "tf32" and kind != "cuda":
            raise UsageError(f"TF32 is an arithmetic of NVIDIA's GPUs; on {kind} use --precision fp32 or bf16.")
        if precision == "bf16" and kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UsageError("this GPU has no bfloat16 arithmetic; use --precision fp32.")
        compiled = usual.compiled if compiled is None else compiled
        return cls(precision, compiled, usual.channels_last or precision == "bf16", bool(graph))

    def try_compiling(self, device: torch.device | str, *, whole: bool = True) -> Execution:
        """The same where torch.compile works, else an eager one that notes why.

        ``whole``: whether the loss is one graph (``Recipe.one_graph``), without which nothing is captured either.
        """
        if not (self.compiled or self.graph):
            return self
        if not whole:
            return replace(self, compiled=False, graph=False, note="the loss of this recipe is not one graph")
        note = cannot_compile(device) if self.compiled else ""
        return replace(self, compiled=self.compiled and not note, note=note)

    def describe_products(self) -> str:
        """The part of it that changes the trained weights, as a phrase."""
        return f"products of training in {_PRODUCTS[self.precision]}"

    def describe(self) -> str:
        """All of it in one line, for the user."""
        parts = [self.describe_products(), "steps compiled" if self.compiled else "steps not compiled"]
        if self.channels_last:
            parts.append("channels last")
        if self.graph:
            parts.append("each step launched as one graph")
        return ", ".join(parts) + (f" ({self.note})" if self.note else "")

    def place(self, model: nn.Module) -> None:
        """Give the weights of convolutions the memory layout, in place."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)

    def arrange(self, x: Tensor) -> Tensor:
        """A batch in the memory layout."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last and x.dim() == 4 else x

    def compile(self, function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
        """The function, compiled if ``compiled``; on a GPU its kernels are launched as CUDA graphs, unless the whole step is."""
        if not self.compiled:
            return function
        # Shapes never change within a run: a graph for any batch size would be slower, and be captured anew for each size.
        if device.type != "cuda" or self.graph:
            return torch.compile(function, dynamic=False)
        graphed = torch.compile(function, mode="reduce-overhead", dynamic=False)

        def call(*args: Any, **kwargs: Any) -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            return graphed(*args, **kwargs)

        return call

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """TF32 on, or off for ``fp32``, inside: for both passes of a step, or to measure accuracy. Afterwards as before.

        Under bfloat16, the products that remain in float32 are TF32 on a GPU.
        """
        cudnn: Any = torch.backends.cudnn
        flags: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn)
        before, benchmark = [f.allow_tf32 for f in flags], cudnn.benchmark
        try:
            for f in flags:
                f.allow_tf32 = self.precision != "fp32"
            # Shapes never change: cuDNN finds its fastest algorithm by trying each once.
            cudnn.benchmark = True
            yield
        finally:
            cudnn.benchmark = benchmark
            for f, allowed in zip(flags, before, strict=True):
                f.allow_tf32 = allowed

    def products(self, device: torch.device) -> torch.autocast:
        """Inside, products of the forward pass are in bfloat16 under ``bf16``; those of the backward pass follow."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


PLAIN = Execution()
"""Float32, eager, the usual layout: how walks outside training are computed."""


def cannot_compile(device: torch.device | str) -> str:
    """Why torch.compile does not work on this device, or an empty string: it needs a C++ compiler, or Triton on a GPU."""
    try:
        torch.compile(lambda x: x * 2 + 1, fullgraph=True)(torch.zeros(8, device=device))
    except Exception as error:  # every part of the compiler has errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"compiling does not work here: {reason[:120]}"
    return ""
