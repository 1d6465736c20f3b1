"""Measures every value of a model: ONNX Runtime runs it with all values as outputs, at one or more batch sizes.

Unlike shape inference, a run gives all shapes and types. Values that depend on the inputs' shapes alone are recognised by how
they change from one probe to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from pipeline.errors import InputRejected
from pipeline.limits import limits, raised
from pipeline.onnx import runtime
from pipeline.onnx.names import shown

_WRITTEN_OUT = 1 << 12
_FREE_SIZES = (32, 28, 64, 224, 8, 16, 1)
_GENERATORS = {"ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Upsample", "Pad", "OneHot", "EyeLike"}
_DTYPES = {
    1: np.float32,
    10: np.float16,
    11: np.float64,
    7: np.int64,
    6: np.int32,
    2: np.uint8,
    3: np.int8,
    9: np.bool_,
}


@dataclass(frozen=True)
class Probes:
    """All values of one model at a few input sizes; ``free``: the batch varies, ``sizes``: other free dimensions do."""

    values: tuple[Mapping[str, np.ndarray], ...]
    free: bool
    sizes: bool


def probe(model: onnx.ModelProto, check: Callable[[Mapping[str, np.ndarray]], None] = lambda values: None) -> Probes:
    """Run a model at batch sizes 2 and 3 where its first dimension is free, else at the one it fixes.

    Other free dimensions get a size at which the model runs, and a second one to see what depends on them. ``check`` may refuse
    the values at batch 2 with its own message, before ONNX Runtime refuses batch 3. Raises InputRejected if no size works.
    """
    # Without optimisation, constants are the file's own. Besides, with all values as outputs the optimiser takes time that grows
    # with the square of the readers of one value.
    run = runtime.session(with_outputs(model).SerializeToString(), limited=True, level="off")
    free = all(_dims(p)[:1] == [None] for p in model.graph.input)
    others = any(d is None for p in model.graph.input for d in (_dims(p)[1:] if free else _dims(p)))
    reason: InputRejected | None = None
    for batch in (2, 1) if free else (1,):
        for size in _FREE_SIZES if others else (0,):
            try:
                first = _run(run, model, batch, size)
            except InputRejected as error:
                reason = reason or error
                continue
            values, sizes = [first], False
            if batch == 2:
                if not others:
                    check(first)
                values.append(_run(run, model, 3, size))
            if others:
                try:
                    values.append(_run(run, model, batch, size + 4))
                    sizes = True
                except InputRejected:  # declared free, but the graph fits one size only
                    pass
            return Probes(tuple(values), free=batch == 2, sizes=sizes)
    assert reason is not None
    raise reason


def with_outputs(model: onnx.ModelProto, names: Iterable[str] | None = None) -> onnx.ModelProto:
    """The model with every computed value, or those named, among its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = {o.name for o in copy.graph.output}
    values = dict.fromkeys(v for n in copy.graph.node for v in n.output) if names is None else dict.fromkeys(names)
    copy.graph.output.extend(onnx.ValueInfoProto(name=v) for v in values if v and v not in outputs)
    return copy


def check_bombs(model: onnx.ModelProto, batch: int = 1, size: int = 1) -> None:
    """Raise InputRejected for a graph with a value that is too large at this batch size and size, before it is run."""
    concrete = onnx.ModelProto()
    concrete.CopyFrom(model)
    for port in concrete.graph.input:
        for axis, dim in enumerate(port.type.tensor_type.shape.dim):
            if dim.dim_value <= 0:
                dim.dim_value = batch if axis == 0 else size
        _check_value(port, "an input")
    # Declared shapes must not replace computed ones.
    del concrete.graph.value_info[:]
    for port in concrete.graph.output:
        port.type.tensor_type.ClearField("shape")
    producers = {v: n.op_type for n in model.graph.node for v in n.output}
    for propagate in (False, True):
        try:
            inferred = onnx.shape_inference.infer_shapes(concrete, data_prop=propagate).graph
        except Exception as error:  # where inference fails, the run decides, which has its own limit
            if isinstance(error, MemoryError):
                raise
            return
        values = (*inferred.value_info, *inferred.output)
        for info in values:
            _check_value(info, producers.get(info.name, "an input"))
        if not all(map(_short, values)) or len(values) < len(producers):
            return


def _short(info: onnx.ValueInfoProto) -> bool:
    """Whether onnx may compute a value during shape inference: it stores vectors of integers in full, however long."""
    kind = info.type.tensor_type
    if kind.elem_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) or len(kind.shape.dim) != 1:
        return kind.HasField("shape")
    return 0 <= kind.shape.dim[0].dim_value <= _WRITTEN_OUT and kind.shape.dim[0].HasField("dim_value")


def _check_value(info: onnx.ValueInfoProto, producer: str) -> None:
    size = 4 * math.prod(max(1, dim.dim_value) for dim in info.type.tensor_type.shape.dim)
    if size > limits().value_bytes:
        raise InputRejected(
            f"A value takes at most {limits().value_bytes} bytes; '{shown(info.name)}', made by {producer}, would take {size}."
            f" The file is hostile or holds a wrong shape. {raised('value_bytes')}"
        )
    if producer in _GENERATORS and size > limits().generated_bytes:
        raise InputRejected(
            f"A node makes at most {limits().generated_bytes} bytes out of nothing; '{shown(info.name)}', made by {producer},"
            f" would take {size}. The file is hostile or holds a wrong shape. {raised('generated_bytes')}"
        )


def _dims(port: onnx.ValueInfoProto) -> list[int | None]:
    return [d.dim_value if d.dim_value > 0 else None for d in port.type.tensor_type.shape.dim]


def _run(run: runtime.Session, model: onnx.ModelProto, batch: int, size: int) -> dict[str, np.ndarray]:
    check_bombs(model, batch, size)
    rng = np.random.default_rng(0)
    xs = []
    for port in model.graph.input:
        dims = _dims(port)
        shape = [(batch if axis == 0 else size) if d is None else d for axis, d in enumerate(dims)]
        dtype = _DTYPES.get(port.type.tensor_type.elem_type)
        if dtype is None:
            name = helper.tensor_dtype_to_string(port.type.tensor_type.elem_type)
            raise InputRejected(
                f"Inputs hold numbers; an input holds {name}. Export the network without its preprocessing."
            )
        xs.append(_example(rng, shape, np.dtype(dtype)))
    values = dict(zip(run.outputs, run(*xs), strict=True))
    if sequences := [name for name, value in values.items() if not isinstance(value, np.ndarray)]:
        producer = next((n for n in model.graph.node if sequences[0] in n.output), None)
        raise InputRejected(
            f"Values are tensors; {shown(producer.op_type) if producer else 'an operator'} makes a sequence."
            " Export the model without it."
        )
    values.update(zip(run.inputs, xs, strict=True))
    return values


def _example(rng: np.random.Generator, shape: list[int], dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    return np.zeros(shape, dtype)


_PICK = {"NonZero", "Compress", "Unique", "NonMaxSuppression", "MelWeightMatrix", "Range", "ConstantOfShape"}
_SIZED = {
    **{"Slice": (1, 2, 3, 4), "Pad": (1, 3), "Resize": (1, 2, 3), "Col2Im": (1, 2), "MaxUnpool": (2,), "STFT": (1, 3)},
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Upsample", "TopK", "OneHot", "Squeeze", "Unsqueeze", "Split"), (1,)),
    **dict.fromkeys(("CenterCropPad", "AffineGrid", "DFT"), (1,)),
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), (0,)),
}
"""By operator: the inputs whose values determine the size of its results."""


def _sizing(node: onnx.NodeProto) -> Iterator[str]:
    """The inputs of an operator whose values determine the size of its results."""
    if node.op_type in _PICK or "Sequence" in node.op_type or "Optional" in node.op_type:
        yield from node.input
        return
    places = (1,) if node.op_type.startswith("Reduce") else _SIZED.get(node.op_type, ())
    yield from (node.input[i] for i in places if i < len(node.input) and node.input[i])


def dependence(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """For each computed value, in order: ``constant``, ``shape`` (of input shapes alone), or ``data``.

    The shape of a value is data too where its size is computed from data, or its entries are selected by data.
    """
    data = {p.name for p in model.graph.input} - {t.name for t in model.graph.initializer}
    shape: set[str] = set()
    data_sized: set[str] = set()
    for node in model.graph.node:
        inputs = [v for v in node.input if v]
        if not data_sized.isdisjoint(inputs) or not data.isdisjoint(_sizing(node)):
            data_sized.update(node.output)
        if node.op_type in ("Shape", "Size"):
            kind = "shape" if any(v in data or v in shape for v in inputs) else "constant"
            kind = "data" if not data_sized.isdisjoint(inputs) else kind
        elif any(v in data for v in inputs):
            kind = "data"
        else:
            kind = "shape" if any(v in shape for v in inputs) else "constant"
        for value in node.output:
            if value:
                {"data": data, "shape": shape}.get(kind, set()).add(value)
                yield value, kind
