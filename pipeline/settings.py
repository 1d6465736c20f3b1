"""What a run is asked to do: flags first, then ``pipeline.toml``, then what ``retrain`` left in the file, then defaults."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from pipeline.choices import Mode, Optimization
from pipeline.errors import UsageError
from pipeline.limits import NAMES as LIMITS
from pipeline.limits import Limits
from pipeline.methods import choices
from pipeline.numbers import BLANK, exact, parse_eps, parse_shard, real, whole

__all__ = ["Settings", "limits_beside", "metadata_of", "settle", "settled"]

CURVE = tuple(Fraction(k) / 255 for k in (Fraction(1, 2), 1, 2, 4, 8, 16))
SCALED_CURVE = tuple(Fraction(1, k) for k in (100, 50, 20, 10, 5, 2))
CURVE_SAMPLES = 200
TOML, METADATA = "pipeline.toml", "the file's metadata"
FITTING = ("range", "mean", "std", "layout", "threshold")
"""How data become inputs, and one number a label."""
SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES = {"": 2.0**20, "mb": 2.0**20, "gb": 2.0**30}
LARGEST = 2**53 - 1
"""What a report can state exactly: JSON's readers take numbers as doubles."""
AMOUNT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) *([a-z]*)")


def _whole(value: Any) -> Any:
    found = whole(value) if isinstance(value, str) else value
    if found is None or isinstance(value, bool) or (isinstance(found, int) and abs(found) > LARGEST):
        raise ValueError(f"a whole number is written in the digits 0 to 9, and is at most {LARGEST}")
    return found


def _real(value: Any) -> Any:
    found = real(value) if isinstance(value, str) else value
    if found is None or isinstance(value, bool):
        raise ValueError("a number is written like 0.1 or 1e-3, in digits 0 to 9")
    return found


Whole = Annotated[int, BeforeValidator(_whole)]
Real = Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)]
MANY = 10**9


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
        return self.eps is None and not (self.by_feature and (self.radius or self.features))

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
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        # A Euclidean ball may be larger than any one pixel's range, and a box than a feature's deviation.
        by_feature = any(info.data.get(name) for name in ("scale", "radius", "features"))
        parse = _multiple if by_feature else parse_eps if info.data.get("norm") != "l2" else _euclidean
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

    @field_validator("time_budget", mode="before")
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
        if not isinstance(value, Mapping):
            return value
        if unknown := value.keys() - set(LIMITS):
            raise UsageError(
                f"[limits] has no {sorted(map(str, unknown))[0][:40]!r}; the limits are {', '.join(LIMITS)}."
            )
        given = {k: int(amount(v, BYTES, "800MB or 4GB")) if isinstance(v, str) else v for k, v in value.items()}
        if any(type(v) is not int or v < 1 for v in given.values()):
            raise UsageError("[limits] holds whole numbers from 1, or sizes such as 800MB or 4GB; mend it.")
        return Limits(**given)

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


def _euclidean(text: str) -> Fraction:
    """A Euclidean radius in units of the pixel range; many pixels together may move further than one of them can."""
    eps = exact(text)
    if eps is None or not 0 <= eps <= 1000:
        raise UsageError(
            f"a Euclidean eps is a number in units of the pixel range, such as 0.5 or 128/255; received {text[:40]!r}."
        )
    return eps


def constant(text: str) -> tuple[str, Any]:
    """``NAME=1``, ``NAME=0,1,1`` or ``NAME=npz:FILE``. Raises UsageError."""
    name, equals, said = str(text).rpartition("=")
    if not equals or not name or not said:
        raise UsageError(f"--constant is NAME=NUMBER, NAME=NUMBER,... or NAME=npz:FILE; received {str(text)[:60]!r}.")
    numbers = [real(part) for part in said.split(",")]
    if said.startswith("npz:") or None in numbers:
        return name, said
    return name, numbers[0] if len(numbers) == 1 else tuple(numbers)


def _multiple(text: str) -> Fraction:
    """How many times its own radius each feature may move."""
    eps = exact(text)
    if eps is None or not 0 <= eps <= 1000:
        raise UsageError(
            f"eps is a multiple of each feature's radius or deviation, such as 0.1, at most 1000; received {text[:40]!r}."
        )
    return eps


def amount(value: Any, units: Mapping[str, float], example: str) -> Any:
    """A number with a unit, in the smallest one's measure; numbers that are none already are left to the field."""
    if value is None or isinstance(value, bool):
        return value
    match = AMOUNT.fullmatch(str(value).strip(BLANK).lower())
    if match is None or match[2] not in units:
        raise UsageError(f"a budget is written like {example}; received {str(value)[:40]!r}.")
    return float(match[1]) * units[match[2]]


def settle(model: Path, flags: Mapping[str, Any], metadata: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """The settings of a run, and for each one that something said, what said it.

    Raises UsageError (2) for a setting that no one knows or that means nothing.
    """
    said: dict[str, Any] = {}
    source: dict[str, str] = {}
    for name, values in (
        (METADATA, _from_metadata(metadata)),
        *_from_toml(model),
        ("flag", {k: v for k, v in flags.items() if v is not None and v != ()}),
    ):
        if name == TOML and "download" in values:
            raise UsageError(
                f"{TOML}: no file opens the network; remove `download`, and say --download where you want it."
            )
        if name != "flag" and "shard" in values:
            raise UsageError(f"{name}: every shard would be the same one; remove `shard`, and say --shard to each run.")
        retrain = values.get("retrain", {})
        if not isinstance(retrain, dict):
            raise UsageError(f"{name}: retrain is a table of settings, [retrain]; received {str(retrain)[:80]!r}.")
        # A recipe named anew starts from its own settings, not from those that were written down for another.
        kept = said.get("retrain", {})
        if retrain.get("recipe", kept.get("recipe")) == kept.get("recipe"):
            retrain = kept | retrain
        said |= values
        source |= dict.fromkeys(values, name)
        if retrain:
            said["retrain"] = retrain
    settings = settled(said, source)
    _require_normalisation(settings, source)
    _require_radii(settings)
    return settings, source


def _require_normalisation(settings: Settings, source: Mapping[str, str]) -> None:
    """Mean and deviation are stated together, and the mean in units of the pixel range. Raises UsageError."""
    mean, std = settings.mean, settings.std
    if (mean is None) != (std is None):
        name, value, other, none = ("mean", mean, "std", 1) if std is None else ("std", std, "mean", 0)
        raise UsageError(
            f"--mean and --std belong together, (x - mean) / std; {source[name]} says {name} {_listed(value)} alone. "
            f"Say --{other} too, as the deployment has it: --{other} {none} if it has none."
        )
    if settings.range is None and settings.by_feature:  # in units of the data, of which no range is known
        return
    low, high = settings.range or (0.0, 1.0)
    if mean is None or all(low <= m <= high for m in mean):
        return
    rule = f"--mean is one of pixels, and lies in their range, {low:g} to {high:g}; received {_listed(mean)}"
    if (low, high) == (0, 1) and all(0 <= m <= 255 for m in mean):
        scaled = " ".join(
            f"--{n} {_listed(tuple(v / 255 for v in vs or ()))}" for n, vs in (("mean", mean), ("std", std))
        )
        raise UsageError(
            f"{rule}: that of values from 0 to 255. For pixels divided by 255 say {scaled}; if the deployment takes them as they "
            "are stored, say --range 0,255 too."
        )
    raise UsageError(f"{rule}. State mean and std in the units of --range, or the --range that they are of.")


def _require_radii(settings: Settings) -> None:
    """Radii of features are said in one way, and of boxes. Raises UsageError."""
    if settings.scale and settings.radius:
        raise UsageError("--radius and --scale both say how far eps = 1 moves each feature: give one of them.")
    if settings.by_feature and settings.norm != "linf":
        raise UsageError("radii by feature are those of a box; leave --norm l2 out, or --scale, --radius and --fixed.")
    for name, value, other in (("movable", settings.movable, "scale"), ("scale-data", settings.scale_data, "scale")):
        if value and not settings.scale:
            raise UsageError(f"--{name} means nothing without --{other}; give both, or neither.")


def _listed(values: tuple[float, ...] | None) -> str:
    return ",".join(f"{v:.4g}" for v in values or ())


def settled(said: Mapping[str, Any], source: Mapping[str, str]) -> Settings:
    """Settings of values, each with what said it. Raises UsageError."""
    try:
        return Settings(**said)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])[:80] or "setting"
        known = f"; the settings are {', '.join(Settings.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(
            f"{source.get(str(first['loc'][0]) if first['loc'] else '', 'a setting')}: {key} is refused: "
            f"{first['msg']}; received {str(first['input'])[:80]!r}{known}."
        ) from None


def limits_beside(model: Path) -> Limits:
    """Those that ``pipeline.toml`` sets, else the defaults: what must be known before the file is opened. Raises UsageError."""
    told = dict(_from_toml(model)).get(TOML, {})
    return settled({"limits": told.get("limits", {})}, {"limits": TOML}).limits


def metadata_of(settings: Settings) -> dict[str, str]:
    """What a later ``certify`` of the written file needs, as values of ``metadata_props``."""
    preprocessing = {k: getattr(settings, k) for k in FITTING if getattr(settings, k) is not None}
    left = {"pipeline.eps": ",".join(str(e) for e in settings.eps or ())}
    if settings.test_data or settings.data:
        left["pipeline.data"] = settings.test_data or settings.data or ""
    if preprocessing:
        left["pipeline.preprocessing"] = json.dumps(preprocessing, sort_keys=True)
    return left


def _from_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("eps", "data"):
        if metadata.get(f"pipeline.{key}"):
            found[key] = metadata[f"pipeline.{key}"]
    try:
        preprocessing = json.loads(metadata.get("pipeline.preprocessing", "{}"))
    except (ValueError, RecursionError):
        preprocessing = None
    if not isinstance(preprocessing, dict) or not preprocessing.keys() <= set(FITTING):
        raise UsageError(
            "the file's metadata `pipeline.preprocessing` is not what `retrain` writes; "
            "state --mean, --std, --range, --layout and --threshold yourself, or remove the entry."
        )
    return found | preprocessing


def _from_toml(model: Path) -> list[tuple[str, dict[str, Any]]]:
    """The settings file beside the model, else the one in the working folder."""
    for folder in dict.fromkeys((Path(os.path.realpath(model)).parent, Path.cwd())):
        path = folder / TOML
        if not os.path.lexists(path):
            continue
        if not path.is_file():
            raise UsageError(
                f"{TOML} is a file of settings; the one in '{folder}' is something else (a folder, a FIFO, a device, a dead "
                "link). Nothing may be asked there and not be seen: mend it or move it away."
            )
        try:
            return [(TOML, tomllib.loads(path.read_text("utf-8")))]
        except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{TOML} cannot be read: {str(error)[:200]}; mend it or move it away.") from None
    return []
