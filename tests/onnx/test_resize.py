"""Resize in every mode, against ONNX Runtime with its optimiser off, with no parity in between."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline.bounds.ibp import IntervalWalk
from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.errors import InputRejected
from pipeline.rules import unsupported
from tests.onnx.bare import imported, truth
from tests.onnx.files import load, model, node, saved, weights

WHERE = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = (0.3, 0.5, 0.6, 0.75, 1.1, 1.25, 1.5, 5 / 3, 2.0, 2.5, 3.0, 4.0)


def resize(
    shape: list, *, opset: int = 19, scales: list | None = None, sizes: list | None = None, **attributes: object
) -> onnx.ModelProto:
    tensors = {"s": np.array(scales, np.float32)} if scales is not None else {"s": np.array(sizes, np.int64)}
    inputs = ["x", "s"] if opset < 11 else ["x", "", "s"] if scales is not None else ["x", "", "", "s"]
    if opset in (11, 12):
        tensors, inputs[1] = tensors | {"roi": np.zeros(0, np.float32)}, "roi"
    return model([node("Resize", inputs, ["y"], **attributes)], shape, tensors, opset=opset, ir=8 if opset < 19 else 9)


def drawn(seed: int) -> Iterator[dict]:
    """Sizes and scales of both directions, ties among them."""
    rng = np.random.default_rng(seed)
    for _ in range(12):
        height, width = (int(n) for n in rng.integers(1, 20, 2))
        shape = ["batch", 3, height, width]
        if rng.random() < 0.5:
            yield {"shape": shape, "sizes": [int(n) for n in rng.integers(1, 25, 2)], "axes": [2, 3]}
        else:
            fitting = [[s for s in SCALES if int(np.float32(s) * np.float32(n)) > 0] for n in (height, width)]
            yield {"shape": shape, "scales": [1.0, 1.0, *(float(rng.choice(f)) for f in fitting)]}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("mode", [*NEAREST, "linear", "cubic", "cubic inside", "linear antialias", "cubic antialias"])
def test_every_mode_reads_what_onnx_runtime_reads(mode: str, where: str) -> None:
    kind = mode.split()[0]
    attributes: dict = {"mode": kind, "coordinate_transformation_mode": where}
    if kind in NEAREST:
        attributes.update(mode="nearest", nearest_mode=kind)
    if mode.endswith("antialias"):
        attributes["antialias"] = 1
    if mode == "cubic inside":
        attributes.update(exclude_outside=1, cubic_coeff_a=-0.5)
    for case in drawn(seed=len(mode) + len(where)):
        proto = resize(**case, **attributes)
        x = weights(2, *case["shape"][1:])
        expected, network = truth(proto, x), imported(proto)
        got = network(torch.from_numpy(x)).numpy()
        assert got.shape == expected.shape, case
        if kind in NEAREST:
            assert np.array_equal(got, expected), case
        else:
            assert np.allclose(got, expected, rtol=1e-5, atol=1e-5), (case, np.abs(got - expected).max())
        assert unsupported(network) == ()


@pytest.mark.parametrize("shape", [["batch", 5], ["batch", 2, 5], ["batch", 2, 3, 4], ["batch", 2, 3, 2, 4]])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_every_rank_and_axis(shape: list, mode: str) -> None:
    for opset in (11, 13, 17, 18, 19):
        scales = [1.0] * len(shape)
        for axis in range(max(1, len(shape) - 3), len(shape)):
            scales[axis] = (1.5, 2.0, 0.5)[axis % 3]
        if len(shape) > 3:
            scales[1] = 1.0
        proto = resize(shape, scales=scales, mode=mode, opset=opset)
        x = weights(2, *shape[1:])
        assert np.allclose(imported(proto)(torch.from_numpy(x)).numpy(), truth(proto, x), atol=1e-6)


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [3], [-1], [-2, -1]])
def test_axes(axes: list) -> None:
    proto = resize(["batch", 2, 5, 4], sizes=[7, 3][: len(axes)], axes=axes, mode="linear")
    x = weights(2, 2, 5, 4)
    try:
        expected = truth(proto, x)
    except Exception:  # this runtime takes no negative axes
        return
    assert np.allclose(imported(proto)(torch.from_numpy(x)).numpy(), expected, atol=1e-6)


@pytest.mark.pairwise
@pytest.mark.parametrize(("opset", "operator"), [(7, "Upsample"), (8, "Upsample"), (9, "Upsample"), (10, "Resize")])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [(2.0, 3.0), (1.5, 2.5), (1.0, 3.7), (0.5, 0.4)])
def test_what_older_opsets_meant(opset: int, operator: str, mode: str, scale: tuple) -> None:
    if operator == "Upsample" and min(scale) < 1:
        pytest.skip("an Upsample never shrinks")
    scales = [1.0, 1.0, *scale]
    if opset < 9:
        proto = model([node(operator, ["x"], ["y"], mode=mode, scales=scales)], ["batch", 2, 5, 4], opset=opset)
    else:
        tensors = {"s": np.array(scales, np.float32)}
        proto = model([node(operator, ["x", "s"], ["y"], mode=mode)], ["batch", 2, 5, 4], tensors, opset=opset)
    x = weights(2, 2, 5, 4)
    assert np.allclose(imported(proto)(torch.from_numpy(x)).numpy(), truth(proto, x), atol=1e-6)


def test_a_resize_of_old_that_grows_and_shrinks_is_refused_by_name() -> None:
    with pytest.raises(InputRejected, match=r"Resize .*before opset 11"):
        imported(resize(["batch", 2, 5, 4], scales=[1.0, 1.0, 2.0, 0.5], opset=10, mode="nearest"))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop_and_resize"),
        ({"keep_aspect_ratio_policy": "not_larger"}, "keep_aspect_ratio_policy"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(attributes: dict, message: str) -> None:
    nodes = [node("Resize", ["x", "r", "", "s"], ["y"], **attributes)]
    tensors = {"r": np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9], np.float32), "s": np.array([2, 2, 8, 9], np.int64)}
    with pytest.raises(InputRejected, match=message):
        imported(model(nodes, [2, 2, 5, 4], tensors, opset=19, ir=9))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_size_for_the_batch_that_does_not_follow_it_is_refused(size: int) -> None:
    proto = resize(["batch", 2, 5, 4], sizes=[size, 2, 7, 9], mode="nearest")
    with pytest.raises(InputRejected, match="it resizes the batch"):
        imported(proto)
    assert imported(resize([1, 2, 5, 4], sizes=[1, 2, 7, 9], mode="nearest")).inputs[0].shape[0] is None


def computed_sizes(first: str, opset: int = 17) -> onnx.ModelProto:
    """Sizes of a Resize put together from the shape of its input."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Mul", ["n", "five"], ["many"]),
        node(
            "Concat", [first, "two", "seven", "nine"] if first == "n" else ["n", "two", "many", "nine"], ["s"], axis=0
        ),
        node("Resize", ["x", "", "", "s"], ["y"], mode="linear"),
    ]
    tensors = {n: np.array([v], np.int64) for n, v in (("zero", 0), ("two", 2), ("five", 5), ("seven", 7), ("nine", 9))}
    return model(nodes, ["batch", 2, 5, 4], tensors, opset=opset)


def test_sizes_computed_from_the_shape_are_constants() -> None:
    proto = computed_sizes("n")
    for count in (1, 2, 3):
        x = weights(count, 2, 5, 4)
        assert np.allclose(imported(proto)(torch.from_numpy(x)).numpy(), truth(proto, x), atol=1e-6)


def test_a_size_that_follows_the_batch_is_never_folded() -> None:
    with pytest.raises(InputRejected, match="depends on the batch"):
        imported(computed_sizes("many"))


def test_the_nearest_entry_is_gathered_and_exact_in_every_mode_of_arithmetic(tmp_path: Path) -> None:
    proto = resize(["batch", 2, 5, 4], scales=[1.0, 1.0, 2.0, 1.5], mode="nearest")
    network = load(saved(tmp_path, proto)).network
    assert {type(s.op) for s in network.plan().steps} == {ops.Gather}
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    (*_, box) = IntervalWalk(network.in_float64(), Outward(deployed=True)).boxes([Interval(x, torch.full_like(x, 0.1))])
    assert torch.allclose(box.radius, torch.full_like(box.radius, 0.1), rtol=1e-12)


@pytest.mark.parametrize(("scale", "exact"), [(2.0, True), (0.5, True), (4.0, True), (1.5, False), (3.0, False)])
def test_float32_is_promised_of_a_linear_resize_only_where_no_rounding_made_its_weights(
    scale: float, exact: bool
) -> None:
    proto = resize(["batch", 2, 6, 4], scales=[1.0, 1.0, scale, scale], mode="linear")
    network, x = imported(proto), weights(3, 2, 6, 4)
    walk = IntervalWalk(network.in_float64(), Outward(deployed=True))
    center = torch.from_numpy(x).double()
    point = [Interval(center, torch.zeros_like(center))]
    if not exact:
        with pytest.raises(InputRejected, match="Resize"):
            walk.boxes(point)
        return
    (*_, box) = walk.boxes(point)
    y = torch.from_numpy(truth(proto, x)).double()
    assert bool(((y - box.center).abs() <= box.radius).all())


def test_a_table_of_another_mode_would_be_found_out() -> None:
    """The comparison can fail: the nearest entry by another rounding is another table."""
    proto = resize(["batch", 1, 5, 4], scales=[1.0, 1.0, 2.0, 2.0], mode="nearest", nearest_mode="ceil")
    other = resize(["batch", 1, 5, 4], scales=[1.0, 1.0, 2.0, 2.0], mode="nearest", nearest_mode="floor")
    x = weights(1, 1, 5, 4)
    assert not np.array_equal(imported(other)(torch.from_numpy(x)).numpy(), truth(proto, x))


def test_weights_of_an_exact_table_are_those_of_real_arithmetic() -> None:
    proto = resize(["batch", 1, 4, 1], scales=[1.0, 1.0, 2.0, 1.0], mode="linear")
    (op,) = [s.op for s in imported(proto).plan().steps]
    assert isinstance(op, ops.Resize)
    assert op.exact
    expected = [min(max((i + Fraction(1, 2)) / 2 - Fraction(1, 2), Fraction(0)), Fraction(3)) for i in range(8)]
    found = op(torch.arange(4, dtype=torch.float64).reshape(1, 1, 4, 1)).flatten().tolist()
    assert [Fraction(v) for v in found] == expected
