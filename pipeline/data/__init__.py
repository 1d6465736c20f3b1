"""Data sets by URI, as they are stored, and their conversion to the inputs of a model.

    dataset = load("npz:test.npz", part="test")
    fitted = fit(dataset, input_shape=(3, 32, 32), classes=10)

`load` reads a source and checks the file; `fit` converts it to float32 inputs of a model, or raises where it does not fit.
"""

from __future__ import annotations

from pipeline.data.dataset import Dataset, hold_out, select
from pipeline.data.discrete import discrete
from pipeline.data.fit import Fitted, Layout, Pixels, fit
from pipeline.data.layout import channel_axis
from pipeline.data.loader import Augment, Loader
from pipeline.data.source import Part, has_part, load, without_folders

__all__ = [
    "Augment",
    "Dataset",
    "Fitted",
    "Layout",
    "Loader",
    "Part",
    "Pixels",
    "channel_axis",
    "discrete",
    "fit",
    "has_part",
    "hold_out",
    "load",
    "select",
    "without_folders",
]
