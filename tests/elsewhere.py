"""A device that is not the CPU, played by it: where no GPU is at hand, what mixes devices or waits for one is found all the same.

A tensor of device ``elsewhere`` holds one of the CPU, on which every operator runs: results are those of the CPU but for
rounding. An operator that is given tensors of both is refused, as CUDA refuses it, and what makes the host wait for a device
is counted. Under autocast operators are cast as CUDA's are, which is not as the CPU's are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, library
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

NAME = "elsewhere"
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend") and not torch.cuda.is_available()
"""Older versions of PyTorch have no devices made in Python; and where there are two, autograd loses the streams of a GPU."""

waits: Counter[str] = Counter()
"""What made the host wait, or look at a value, since it was last cleared."""

# Names of operators.
COPIES = "_to_copy copy_"
LOOKS = """
_local_scalar_dense equal is_nonzero nonzero masked_select _unique2 unique_dim unique_consecutive bincount repeat_interleave
"""
"""Those that give the host a value, or a tensor of a size that depends on values."""
INDEXING = "index index_put index_put_ _index_put_impl_ _unsafe_index"
FACTORIES = "eye eye.m arange arange.start arange.start_step linspace tril_indices triu_indices"
"""What PyTorch makes for any device in two steps, of which the second resizes."""
# https://docs.pytorch.org/docs/stable/amp.html, "CUDA Op-Specific Behavior", of what a network here may be made of.
LOWERED = """
matmul mm mv bmm addmm addmv baddbmm linear prelu
conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input conv_transpose3d.input
"""
RAISED = """
exp expm1 log log10 log1p log2 reciprocal rsqrt softplus tan cosh sinh acos asin erfinv dist norm.Scalar
sum sum.dim_IntList prod prod.dim_int cumsum cumprod pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar softmax.int log_softmax.int
nll_loss nll_loss2d layer_norm group_norm kl_div mse_loss cross_entropy_loss binary_cross_entropy_with_logits
"""


class Elsewhere(Tensor):
    """A tensor of the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{NAME}:0",
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.held!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as a tensor of the CPU, where ``map_location`` puts those of a device."""
        return self.detach().held.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        waits["tolist"] += 1
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(op, args, kwargs or {})


def run(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator on what the tensors hold, refused where they are not all here, or all there."""
    name = op._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    asked = kwargs.get("device")
    stays = bool(there) if asked is None else torch.device(asked).type == NAME
    if name in COPIES.split():
        if len({isinstance(t, Elsewhere) for t in tensors} | {stays}) > 1:
            waits["copy"] += 1
    elif there:
        # A number of the CPU, a tensor without axes, may meet any tensor entry by entry.
        indexing = name in INDEXING.split()
        lenient = torch.Tag.pointwise in op.tags or indexing
        here = [t for t in tensors if not isinstance(t, Elsewhere) and not (lenient and t.dim() == 0)]
        if here:
            raise RuntimeError(
                f"{op}: expected all tensors on one device, found {there[0].device} and {here[0].device}"
            )
        by_mask = indexing and any(i.dtype == torch.bool for i in pytree.tree_leaves(args[1]) if i is not None)
        if name in LOOKS.split() or by_mask:
            waits[name] += 1
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    held_args, held_kwargs = pytree.tree_map_only(Elsewhere, lambda t: t.held, (args, kwargs))
    out = op(*held_args, **held_kwargs)
    changed = {id(t.held): t for t in there}
    assert all(t.shape == t.held.shape for t in there), f"{op} resizes, which this device does not: see FACTORIES"
    return pytree.tree_map_only(
        Tensor, lambda t: changed[id(t)] if id(t) in changed else Elsewhere(t) if stays else t, out
    )


def cast(op: Any, dtype: Callable[[], torch.dtype]) -> Callable[..., Any]:
    """The operator with its floating tensors of the device cast first, as autocast does."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def one(t: Tensor) -> Tensor:
        return t.to(dtype()) if t.dtype in (torch.bfloat16, torch.float32) and t.device.type == NAME else t

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            args, kwargs = pytree.tree_map_only(Tensor, one, (args, kwargs))
            return op(*args, **kwargs)

    return call


class _Module(getattr(backend_registration, "_DummyBackendModule", object)):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        """Of numbers of its own, which it has none of: it draws on the CPU."""
        return torch.zeros(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        assert not len(state)


_registered: list[Any] = []
"""Kept, since what registers takes it back when it is collected."""


def register() -> None:
    """Make the device known to PyTorch, for the whole process and before its first backward pass."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    everything, aten = (vars(library)["Library"](namespace, "IMPL") for namespace in ("_", "aten"))
    _registered.extend((everything, aten))
    everything.fallback(_made, "PrivateUse1")
    everything.fallback(library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in FACTORIES.split():
        aten.impl(name, partial(_made, overload(name)), "PrivateUse1")
    for names, dtype in ((LOWERED, lambda: torch.get_autocast_dtype(NAME)), (RAISED, lambda: torch.float32)):
        for name in names.split():
            aten.impl(name, cast(overload(name), dtype), "AutocastPrivateUse1")


def overload(name: str) -> Any:
    packet, _, which = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), which or "default")


def _made(op: Any, *args: Any, **kwargs: Any) -> Any:
    return run(op, args, kwargs)


@contextmanager
def usable() -> Iterator[str]:
    """The device, for the time of a test: what PyTorch makes past its dispatcher is made on the CPU and moved."""

    def moved(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda data, *, device=None, **more: (
            make(data, **more) if device is None else make(data, **more).to(device)
        )

    class Generator(torch.Generator):
        def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
            return made(None if torch.device(device).type == NAME else device)

    made = torch.Generator
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "tensor", moved(torch.tensor))
        patch.setattr(torch, "as_tensor", moved(torch.as_tensor))
        patch.setattr(torch, "Generator", Generator)
        waits.clear()
        yield NAME
