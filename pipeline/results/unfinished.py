"""Why branch and bound did not decide a sample: what stopped it, and where its bounds lose most."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.results.facts import Name
from pipeline.results.rate import Frozen

Why = Literal["domains", "memory", "time", "split", "charge"]


class Unfinished(Frozen):
    """Why a sample, or a box of a property, is unknown: `index` counts in the data's part, or among the boxes.

    `why`: the allowed number of parts (`domains`), `memory` or `time` was used up; some part has all signs assumed and is still
    not proved (`split`); or it is proved in real arithmetic alone, since float32 may lose more than the margin (`charge`).
    `domains` parts were bounded, with at most `depth` assumed signs; `bound` is the least lower bound of an open part without
    rounding, of which float32 takes at least `charge`. Of the loss of that bound in the relaxations of ReLUs, `share` is due to
    `layer`.
    """

    index: int = Field(ge=0)
    why: Why
    domains: int = Field(ge=0)
    depth: int = Field(ge=0)
    bound: float | None
    charge: float | None
    layer: Name | None = None
    share: float | None = Field(default=None, ge=0, le=1)
