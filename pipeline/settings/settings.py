"""Every setting of a run in one frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from pipeline.choices import Mode, Optimization
from pipeline.limits import Limits
from pipeline.methods import choices
from pipeline.numbers import BLANK, parse_eps, parse_shard
from pipeline.settings.values import (
    BYTES,
    LARGEST,
    MANY,
    SECONDS,
    Real,
    Whole,
    amount,
    constant,
    euclidean,
    limits,
    multiple,
)

CURVE = tuple(Fraction(k) / 255 for k in (Fraction(1, 2), 1, 2, 4, 8, 16))
SCALED_CURVE = tuple(Fraction(1, k) for k in (100, 50, 20, 10, 5, 2))
CURVE_SAMPLES = 200


class Feature(BaseModel):
    """How far eps = 1 moves a feature, in its own units, and within which range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    radius: Real = Field(ge=0)
    low: Real | None = None
    high: Real | None = None


class Settings(BaseModel):
    """Every setting that flags, a file and metadata can give; None where nothing was said.

    ``eps`` are exact fractions of the pixel range, in the norm ``norm``; ``mean`` and ``std`` describe a normalisation
    outside the graph; budgets are in seconds and bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    data: str | None = None
    test_data: str | None = None
    norm: Literal["linf", "l2"] = "linf"
    scale: Literal["std", "range"] | None = None
    """Of each feature: its standard deviation or its range in the training data is moved by eps = 1."""
    scale_data: str | None = None
    """The training data whose scale is meant; None takes the train part of the data, or the data."""
    radius: str | tuple[Real, ...] | None = None
    """How far eps = 1 moves each feature, or the archive that says it."""
    features: dict[str, Feature] = Field(default_factory=dict)
    """The same of some features, by name or number, each with a valid range if it has one."""
    fixed: tuple[str, ...] = ()
    """Features that stay as they are."""
    movable: tuple[str, ...] = ()
    """Features that may move although they hold whole numbers or two values alone."""
    eps: tuple[Fraction, ...] | None = None
    range: tuple[Real, Real] | None = None
    mean: tuple[Real, ...] | None = None
    std: tuple[Real, ...] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    label_offset: Whole = Field(0, ge=-MANY, le=MANY)
    input: str | None = None
    """Which of several inputs is perturbed."""
    constants: dict[str, float | str | tuple[Real, ...]] = Field(default_factory=dict)
    """Inputs that all samples have alike: a number for all entries, one for each, or the archive that holds them."""
    output: str | None = None
    threshold: Real | None = None
    """Above which the one number that a file gives a sample means label 1."""
    max_samples: Whole | None = Field(None, ge=1)
    before_samples: Whole | None = Field(None, ge=1)
    """On how many samples ``retrain`` certifies the given file, to compare with; None takes those of the new one."""
    seed: Whole = Field(0, ge=0)
    arithmetic: Mode = "float32-any-order"
    method: str = "auto"
    max_domains: Whole | None = Field(None, ge=1, le=MANY)
    """Into how many parts branch and bound divides a region at most; None: see ``domains_of``, and ``certify/property.py``."""
    time_budget: float | None = Field(None, ge=0)
    compare: str | None = None
    """Recipes, behind commas, of which ``retrain`` takes the one that does best in brief runs."""
    budget: float | None = Field(None, gt=0)
    """Seconds of training, by which ``retrain`` chooses the number of epochs."""
    memory_budget: int | None = Field(None, ge=1 << 20, le=LARGEST)
    largest_eps: bool = False
    attack: bool = True
    attack_steps: Whole = Field(10, ge=1)
    restarts: Whole = Field(1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    provider: Literal["cpu", "cuda"] = "cpu"
    runtime_optimization: Optimization = "all"
    """Of the graph, by ONNX Runtime where the model runs."""
    precision: Literal["fp32", "tf32", "bf16"] | None = None
    compile: bool | None = None
    graph: bool | None = None
    fail_under: tuple[str, ...] = ()
    gate_on: Literal["value", "lower-ci"] | None = None
    baseline: str | None = None
    max_regression: tuple[str, ...] = ()
    significance: str | None = None
    require_parity: str | None = None
    require_improvement: bool = False
    parity_seed: int | None = Field(None, ge=0)
    """Of the points at which import, runtime and certificates are compared; None draws them by chance."""
    download: bool = False
    thumbnails: bool = True
    shard: tuple[int, int] | None = None
    """(I, N): the I-th of N shares of the samples alone is certified."""
    limits: Limits = Limits()
    """How much a stranger's file may ask for."""
    retrain: dict[str, Any] = Field(default_factory=dict)
    """Settings of the recipe, under the names that ``Recipe`` gives them."""

    @property
    def by_feature(self) -> bool:
        """Whether each feature has a radius of its own, which eps multiplies."""
        return bool(self.scale or self.radius or self.features or self.fixed)

    @property
    def curve(self) -> bool:
        """Whether no eps was said, and none is meant by radii in units of the data."""
        return not self.eps and not (self.by_feature and (self.radius or self.features))

    @property
    def radii(self) -> tuple[Fraction, ...]:
        """``eps``, or the curve where none was said: eight times as far where the distance is Euclidean."""
        if self.eps or not self.curve:
            return self.eps or (Fraction(1),)
        if self.scale:
            return SCALED_CURVE
        return CURVE if self.norm == "linf" else tuple(8 * eps for eps in CURVE)

    @field_validator("features", mode="before")
    @classmethod
    def _plain_radii(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: said if isinstance(said, Mapping | Feature) else {"radius": said} for name, said in value.items()}

    @field_validator("fixed", "movable", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        return [str(part).strip(BLANK) for part in parts] if isinstance(parts, list | tuple) else parts

    @field_validator("eps", mode="before")
    @classmethod
    def _fractions(cls, value: Any, info: Any) -> Any:
        if value is None:
            return None
        if value in ((), []) or (isinstance(value, str) and value.strip() == "curve"):
            return ()
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        # A Euclidean ball may be larger than any one pixel's range, and a box than a feature's deviation.
        by_feature = any(info.data.get(name) for name in ("scale", "radius", "features"))
        parse = multiple if by_feature else parse_eps if info.data.get("norm") != "l2" else euclidean
        exact = [p if isinstance(p, Fraction) else parse(str(p)) for p in parts]
        return tuple(sorted(set(exact)))

    @field_validator("shard", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        return parse_shard(value) if isinstance(value, str) else value

    @field_validator("method", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        *most, last = map(repr, choices())
        if value not in choices():
            raise PydanticCustomError("literal_error", f"Input should be {', '.join(most)} or {last}")
        return value

    @field_validator("time_budget", "budget", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        return amount(value, SECONDS, "90, 90s, 10m or 1.5h")

    @field_validator("memory_budget", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        size = amount(value, BYTES, "800MB or 4GB")
        return size if size is None else int(size)

    @field_validator("limits", mode="before")
    @classmethod
    def _limits(cls, value: Any) -> Any:
        return limits(value) if isinstance(value, Mapping) else value

    @field_validator("range", "mean", "std", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("constants", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return dict(map(constant, value)) if isinstance(value, list | tuple) else value

    @field_validator("radius", mode="before")
    @classmethod
    def _radius(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) and not value.startswith("npz:") else value

    @field_validator("fail_under", "max_regression", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("significance", "require_parity", mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value
