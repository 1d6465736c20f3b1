"""Samples near the edge as small pictures: PNG that stands in the page itself, made only of what is surely an image."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image

from pipeline.results import Level

Pictures = Mapping[int, bytes]
"""PNG by the index of a sample in the data's part."""
LARGEST = 96
"""Pixels of the longer side, at most."""
CHANNELS = (1, 3)


def thumbnails(
    levels: Sequence[Level],
    index: Int64[np.ndarray, " n"],
    images: Float[np.ndarray, " n *input"],
    *,
    value_range: tuple[float, float],
    layout: str | None,
) -> Pictures:
    """A picture of each sample whose margin is nearest to zero at some eps; none where inputs are no images.

    ``index`` says which samples ``images`` are; pixels lie in ``value_range``, channels stand as ``layout`` has them.
    """
    if images.ndim != 4 or images.shape[3 if layout == "NHWC" else 1] not in CHANNELS:
        return {}
    pictures = images if layout == "NHWC" else images.transpose(0, 2, 3, 1)
    near = {edge.index for level in levels for edge in level.edge}
    rows = [row for row, i in enumerate(index.tolist()) if i in near]
    return {int(index[row]): _png(pictures[row], value_range) for row in rows}


def _png(image: Float[np.ndarray, "h w c"], value_range: tuple[float, float]) -> bytes:
    low, high = value_range
    values = np.rint((image.astype(np.float64) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    # A browser would blur the few pixels of a small image.
    times = LARGEST // max(picture.size)
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
