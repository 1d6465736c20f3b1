"""Checks of the delivered file run in batches: outputs must equal those of each sample alone, and certified labels must hold.

The graph already proves that samples are independent (``onnx/batch/axis.py``); this checks it again, on the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.certify.verdicts import Images
from pipeline.errors import Contradiction, InputRejected
from pipeline.results import Samples, Verdict

PredictBatches = Callable[[np.ndarray, int], np.ndarray]
"""``predict(images, size)``: logits by the file, run in batches of ``size`` samples."""
BATCHES = (1, 2, 3, 8, 31)
"""Sizes of batches that are tried."""
CHECKED_SAMPLES = 62
"""At most so many samples are checked."""
TOLERANCE = 1e-4
"""Relative to the largest output of a sample: kernels round differently in batches of other sizes."""


def require_batch_independence(predict: PredictBatches | None, images: np.ndarray) -> None:
    """Raise InputRejected (3) where an output depends on the other samples of the batch; no check without ``predict``."""
    if predict is None:
        return
    alone = predict(images, 1)
    size = TOLERANCE * np.abs(alone).max(1, keepdims=True, initial=0.0)
    for batch in BATCHES[1:]:
        outputs = predict(images, batch)
        with np.errstate(invalid="ignore"):
            differ = ~((np.abs(outputs - alone) <= size) | (outputs == alone) | (np.isnan(outputs) & np.isnan(alone)))
        if differ.any():
            raise InputRejected(
                "the outputs of a sample must not depend on the other samples of its batch; "
                f"{int(differ.any(1).sum())} of {len(images)} samples have other outputs in batches of {batch} than alone. "
                "Export the model so that it treats each sample by itself."
            )


def require_batch_labels(predict: PredictBatches | None, images: Images, samples: Samples) -> None:
    """Raise Contradiction (5) where a certified sample gets another label in a batch; no check without ``predict``."""
    certified = np.flatnonzero((samples.verdict == Verdict.CERTIFIED).any(0))[:CHECKED_SAMPLES]
    if predict is None or not len(certified):
        return
    for batch in BATCHES:
        labels = predict(images[certified], batch).argmax(1)
        if (wrong := labels != samples.label[certified]).any():
            named = ", ".join(str(i) for i in samples.index[certified][wrong][:10])
            raise Contradiction(
                f"{int(wrong.sum())} certified samples have another label in batches of {batch} (samples {named}): the file does "
                "not treat each sample by itself, so nothing is reported as certified. Please report this with the model."
            )
