"""The threat model of a result: how far an attacker may change a sample."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.results.facts import Name
from pipeline.results.rate import Frozen, law

Radius = Annotated[float, Field(ge=0, le=3.5e38, allow_inf_nan=False)]


class Features(Frozen):
    """The radius by which eps is multiplied, for each entry of the model's input; 0 for an entry that stays fixed.

    `low` and `high` are the ends of an entry's valid range, if it has one; `units` says where the radii come from.
    """

    radii: tuple[Radius, ...] = Field(min_length=1)
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None
    names: tuple[Name, ...] | None = None
    units: Name
    notes: tuple[Name, ...] = ()

    @property
    def fixed(self) -> tuple[str, ...]:
        """The names, or numbers, of the entries that stay fixed."""
        return tuple(self.names[i] if self.names else str(i) for i, radius in enumerate(self.radii) if radius == 0)

    @model_validator(mode="after")
    def _laws(self) -> Features:
        count = len(self.radii)
        law(
            all(len(v) == count for v in (self.low, self.high, self.names) if v is not None),
            f"{count} radii have as many ends",
        )
        law(any(self.radii), "some feature may move")
        ends = zip(self.low or (None,) * count, self.high or (None,) * count, strict=True)
        law(all(low is None or high is None or low < high for low, high in ends), "the range of a feature ascends")
        return self


class Threat(Frozen):
    """The threat model: an attacker changes a sample by at most eps in `norm`, in units of the range, within `range` if `clip`.

    With `features`, each entry changes by at most eps times its radius, within its own range; `range` is then that of the data.
    """

    norm: Literal["linf", "l2"] = "linf"
    space: Literal["pixel", "feature"] = "pixel"
    range: tuple[float, float]
    clip: bool = True
    features: Features | None = None

    @model_validator(mode="after")
    def _laws(self) -> Threat:
        by_feature = self.features is not None
        law(
            (self.space == "feature") == by_feature,
            f"space {self.space!r} with{'' if by_feature else 'out'} radii by feature",
        )
        law(not by_feature or self.norm == "linf", "radii by feature are those of a box")
        return self
