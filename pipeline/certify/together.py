"""The delivered file run in batches: each sample must have the outputs that it has alone, and certified ones their labels.

That samples are independent is shown by the graph (``onnx/batch/axis.py``); this checks it once more, on the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.certify.verdicts import Images
from pipeline.errors import Contradiction, InputRejected
from pipeline.results import Samples, Verdict

PredictTogether = Callable[[np.ndarray, int], np.ndarray]
"""Logits of samples by the file, so many of them together; None where the file fixes its batch."""
BATCHES = (1, 2, 3, 8, 31)
"""How many samples are run together."""
LOOKED_AT = 62
TOLERANCE = 1e-4
"""Of the largest output of a sample: kernels round otherwise in other company."""


def require_independent(predict: PredictTogether | None, images: np.ndarray) -> None:
    """Raise InputRejected (3) where an output of the file depends on how many samples, or which, it is run with."""
    if predict is None:
        return
    alone = predict(images, 1)
    size = TOLERANCE * np.abs(alone).max(1, keepdims=True, initial=0.0)
    for batch in BATCHES[1:]:
        found = predict(images, batch)
        with np.errstate(invalid="ignore"):
            apart = ~((np.abs(found - alone) <= size) | (found == alone) | (np.isnan(found) & np.isnan(alone)))
        if apart.any():
            raise InputRejected(
                f"a sample must have its outputs in whatever company; {int(apart.any(1).sum())} of {len(images)} have others in "
                f"batches of {batch} than alone. Export the model so that it takes each sample by itself."
            )


def require_labels(predict: PredictTogether | None, images: Images, samples: Samples) -> None:
    """Raise Contradiction (5) where a certified sample has another label in a batch than the one that was certified."""
    certified = np.flatnonzero((samples.verdict == Verdict.CERTIFIED).any(0))[:LOOKED_AT]
    if predict is None or not len(certified):
        return
    for batch in BATCHES:
        found = predict(images[certified], batch).argmax(1)
        if (wrong := found != samples.label[certified]).any():
            named = ", ".join(str(i) for i in samples.index[certified][wrong][:10])
            raise Contradiction(
                f"{int(wrong.sum())} certified samples have another label in batches of {batch} (samples {named}): the file does "
                "not take each sample by itself, and nothing is reported as certified; please report this with the model."
            )
