"""Pictures: small, of the pixels as they are, and only of what is an image."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.render import render, thumbnails


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("shape", "layout", "size"),
    [
        ((1, 8, 8), "NCHW", (96, 96)),
        ((3, 32, 20), "NCHW", (96, 60, 3)),
        ((28, 28, 1), "NHWC", (84, 84)),
        ((3, 300, 200), "NCHW", (96, 64, 3)),
        ((224, 448, 3), "NHWC", (48, 96, 3)),
    ],
)
def test_pictures_of_the_samples_near_the_edge(make_report: Callable, shape, layout, size) -> None:
    result = make_report().result
    near = {edge.index for edge in result.levels[0].edge}
    index = np.arange(400)
    images = np.broadcast_to(index.reshape(-1, 1, 1, 1) / 400 * 2 - 1, (400, *shape)).astype(np.float32)
    found = thumbnails(result.levels, index, images, value_range=(-1.0, 1.0), layout=layout)
    assert set(found) == near
    for i, content in found.items():
        picture = opened(content)
        assert picture.shape == size
        assert np.abs(picture - 255 * i / 400).max() <= 1
        assert len(content) < 2000


@pytest.mark.parametrize(
    ("shape", "layout"), [((64,), "flat"), ((4, 8, 8), "NCHW"), ((8, 8), "flat"), ((2, 8, 3), "NCHW")]
)
def test_what_is_no_image_has_no_picture(make_report: Callable, shape, layout) -> None:
    images = np.zeros((400, *shape), np.float32)
    levels = make_report().result.levels
    assert thumbnails(levels, np.arange(400), images, value_range=(0.0, 1.0), layout=layout) == {}


def test_colours_and_the_order_of_axes_are_kept(make_report: Callable) -> None:
    levels = make_report().result.levels
    image = np.random.default_rng(0).integers(0, 256, (3, 96, 96)).astype(np.float32)
    images = np.broadcast_to(image, (400, 3, 96, 96))
    for given, layout in ((images, "NCHW"), (images.transpose(0, 2, 3, 1), "NHWC")):
        found = thumbnails(levels, np.arange(400), given, value_range=(0.0, 255.0), layout=layout)
        assert (opened(found[levels[0].edge[0].index]) == image.transpose(1, 2, 0)).all()


def test_a_page_allows_pictures_only_where_it_has_some(make_report: Callable) -> None:
    report = make_report()
    edge = report.result.levels[0].edge[0]
    text = render(report, pictures={edge.index: b"PNG"})
    assert "img-src data:" in text
    assert f'alt="Sample {edge.index}, of class {edge.label}"' in text
    assert text.count("<img") == 1
    assert "img-src" not in render(report)
