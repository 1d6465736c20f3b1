"""Fitting data to a model: what leaves no doubt is done and said, everything else is refused with what was found."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data import Dataset, fit
from pipeline.errors import Incomplete, InputRejected, UsageError

RNG = np.random.default_rng(1)


def dataset(*shape: int, dtype: type = np.uint8, labels: np.ndarray | None = None) -> Dataset:
    images = RNG.integers(0, 256, (5, *shape)).astype(np.uint8)
    images[0].reshape(-1)[:2] = (0, 255)
    stored = images if dtype is np.uint8 else (images / np.float32(255)).astype(np.float32)
    return Dataset(stored, np.arange(5) if labels is None else labels.astype(np.int64), "npz:t.npz", "test")


def test_eight_bits_become_the_nearest_fraction() -> None:
    data = Dataset(np.arange(256, dtype=np.uint8)[:, None], np.zeros(256, np.int64), "u")
    fitted = fit(data, input_shape=(1,), classes=2)
    assert fitted.images[:].dtype == np.float32
    assert np.array_equal(fitted.images[:][:, 0], (np.arange(256) / 255).astype(np.float32))
    assert fitted.value_range == (0, 1)


UNDOUBTED = [
    ((3, 6, 6), (3, 6, 6), None),
    ((6, 6, 3), (6, 6, 3), None),
    ((6, 6, 3), (3, 6, 6), (0, 3, 1, 2)),
    ((3, 6, 6), (6, 6, 3), (0, 2, 3, 1)),
    ((6, 5, 3), (3, 6, 5), (0, 3, 1, 2)),
    ((6, 6), (1, 6, 6), None),
    ((6, 6), (6, 6, 1), None),
    ((6, 6, 1), (1, 6, 6), None),
    ((1, 6, 6), (6, 6, 1), None),
    ((6, 6), (36,), None),
    ((6, 6, 1), (36,), None),
    ((1, 6, 6), (36, 1), None),
    ((6, 6), (1, 1, 36), None),
    ((36,), (1, 6, 6), None),
    ((36,), (6, 6, 1), None),
    ((36,), (36, 1), None),
    ((7,), (7,), None),
]


@pytest.mark.parametrize(("stored", "wanted", "axes"), UNDOUBTED)
def test_what_leaves_no_doubt_is_done_and_said(stored: tuple, wanted: tuple, axes: tuple | None) -> None:
    data = dataset(*stored, dtype=np.float32)
    fitted = fit(data, input_shape=wanted, classes=5)
    expected = data.images.transpose(axes) if axes else data.images.reshape(5, *wanted)
    assert np.array_equal(fitted.images[:], expected)
    assert len(fitted.notes) == (stored != wanted)


FLAT = [((5, 6, 3), (90,)), ((90,), (3, 5, 6)), ((3, 5, 6), (90,)), ((90,), (5, 6, 3))]


@pytest.mark.parametrize(("stored", "wanted"), FLAT)
def test_the_order_of_channels_of_a_flat_side_is_asked_for(stored: tuple, wanted: tuple) -> None:
    data = dataset(*stored, dtype=np.float32)
    with pytest.raises(InputRejected, match="--layout NCHW"):
        fit(data, input_shape=wanted, classes=5)
    first, last = (fit(data, input_shape=wanted, classes=5, layout=layout).images[:] for layout in ("NCHW", "NHWC"))
    # The two readings are the two flattenings of one picture: NCHW seen as CHW equals NHWC seen as HWC.
    if len(stored) == 3:
        chw, hwc = first.reshape(5, 3, 5, 6), last.reshape(5, 5, 6, 3)
        assert np.array_equal(chw, hwc.transpose(0, 3, 1, 2))
        assert np.array_equal(chw if stored[0] == 3 else hwc, data.images)
    else:
        as_chw = data.images.reshape(5, 3, 5, 6)
        as_hwc = data.images.reshape(5, 5, 6, 3)
        model_first = wanted[0] == 3
        assert np.array_equal(first, as_chw if model_first else as_chw.transpose(0, 2, 3, 1))
        assert np.array_equal(last, as_hwc.transpose(0, 3, 1, 2) if model_first else as_hwc)


@pytest.mark.parametrize(
    ("stored", "wanted", "words"),
    [
        ((28, 28), (3, 28, 28), "grey data for a model of colour images"),
        ((28, 28, 3), (1, 28, 28), "colour data for a model of grey images"),
        ((28, 28), (32, 32), "784 values for 1024"),
        ((4, 6, 3), (3, 6, 4), "several ways"),
        ((4, 6), (6, 4), "several ways"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_shapes(stored: tuple, wanted: tuple, words: str) -> None:
    with pytest.raises(InputRejected, match=words) as caught:
        fit(dataset(*stored), input_shape=wanted, classes=5)
    assert str(stored) in str(caught.value)
    assert str(wanted) in str(caught.value)


def test_labels_are_held_against_the_model_classes() -> None:
    one_based = dataset(4, labels=np.arange(1, 6))
    with pytest.raises(InputRejected, match=r"1-based: `--label-offset -1`"):
        fit(one_based, input_shape=(4,), classes=5)
    shifted = fit(one_based, input_shape=(4,), classes=5, label_offset=-1)
    assert np.array_equal(shifted.labels, np.arange(5))
    assert "-1 added to every label" in shifted.notes
    with pytest.raises(InputRejected, match="found 0 to 4"):
        fit(dataset(4), input_shape=(4,), classes=3)
    with pytest.raises(InputRejected, match=r"--label-offset 0"):
        fit(dataset(4), input_shape=(4,), classes=6, label_offset=-1)


def test_eps_needs_a_pixel_range() -> None:
    data = Dataset(np.array([[-2.5, 3.0]], np.float32), np.zeros(1, np.int64), "u")
    with pytest.raises(InputRejected, match=r"-2.5 to 3, outside \[0, 1\].*normalised already"):
        fit(data, input_shape=(2,), classes=2)
    whole = Dataset(np.array([[-2.0, 3.0]], np.float32), np.zeros(1, np.int64), "u")
    with pytest.raises(InputRejected, match=r"-2 to 3, outside \[0, 1\].*--range -128,127"):
        fit(whole, input_shape=(2,), classes=2)
    fitted = fit(data, input_shape=(2,), classes=2, value_range=(-3.0, 3.0))
    assert np.array_equal(fitted.images[:], data.images)
    assert fitted.value_range == (-3, 3)
    with pytest.raises(InputRejected, match="must lie in --range -1,1"):
        fit(data, input_shape=(2,), classes=2, value_range=(-1.0, 1.0))
    with pytest.raises(UsageError):
        fit(data, input_shape=(2,), classes=2, value_range=(1.0, 1.0))


def test_a_range_takes_eight_bits_as_they_stand() -> None:
    data = dataset(4)
    assert np.array_equal(fit(data, input_shape=(4,), classes=5, value_range=(0.0, 255.0)).images[:], data.images)
    unit = fit(data, input_shape=(4,), classes=5, value_range=(0.0, 1.0))
    assert unit.images[:].max() == 1
    binary = Dataset(np.array([[0, 1]], np.uint8), np.zeros(1, np.int64), "u")
    with pytest.raises(InputRejected, match="--range 0,1"):
        fit(binary, input_shape=(2,), classes=2)
    assert np.array_equal(fit(binary, input_shape=(2,), classes=2, value_range=(0.0, 1.0)).images[:], [[0, 1]])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(poison: float) -> None:
    data = dataset(4, dtype=np.float32)
    data.images[3, 1] = poison
    with pytest.raises(InputRejected, match="1 of 5 samples hold NaN or infinity, the first is sample 3"):
        fit(data, input_shape=(4,), classes=5)


def test_nothing_to_check_is_not_a_pass() -> None:
    with pytest.raises(Incomplete):
        fit(dataset(4).take(np.arange(0)), input_shape=(4,), classes=5)
