"""Settings from where they are said: flags, ``pipeline.toml``, what ``retrain`` left in the file, defaults."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import UsageError
from pipeline.limits import Limits
from pipeline.settings.settings import Settings

TOML, METADATA = "pipeline.toml", "the file's metadata"
FITTING = ("range", "mean", "std", "layout", "threshold")
"""How data become inputs, and one number a label."""


def settle(model: Path, flags: Mapping[str, Any], metadata: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """The settings of a run, and for each one that something said, what said it.

    Raises UsageError (2) for a setting that no one knows or that means nothing.
    """
    merged: dict[str, Any] = {}
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
        earlier = merged.get("retrain", {})
        if retrain.get("recipe", earlier.get("recipe")) == earlier.get("recipe"):
            retrain = earlier | retrain
        merged |= values
        source |= dict.fromkeys(values, name)
        if retrain:
            merged["retrain"] = retrain
    settings = settled(merged, source)
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


def settled(merged: Mapping[str, Any], source: Mapping[str, str]) -> Settings:
    """Settings of values, each with what said it. Raises UsageError."""
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])[:80] or "setting"
        names = f"; the settings are {', '.join(Settings.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(
            f"{source.get(str(first['loc'][0]) if first['loc'] else '', 'a setting')}: {key} is refused: "
            f"{first['msg']}; received {str(first['input'])[:80]!r}{names}."
        ) from None


def limits_beside(model: Path) -> Limits:
    """Those that ``pipeline.toml`` sets, else the defaults: what must be known before the file is opened. Raises UsageError."""
    table = dict(_from_toml(model)).get(TOML, {})
    return settled({"limits": table.get("limits", {})}, {"limits": TOML}).limits


def metadata_of(settings: Settings) -> dict[str, str]:
    """What a later ``certify`` of the written file needs, as values of ``metadata_props``."""
    preprocessing = {k: getattr(settings, k) for k in FITTING if getattr(settings, k) is not None}
    entries = {"pipeline.eps": ",".join(str(e) for e in settings.eps or ())}
    if settings.test_data or settings.data:
        entries["pipeline.data"] = settings.test_data or settings.data or ""
    if preprocessing:
        entries["pipeline.preprocessing"] = json.dumps(preprocessing, sort_keys=True)
    return entries


def _from_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for key in ("eps", "data"):
        if metadata.get(f"pipeline.{key}"):
            parts[key] = metadata[f"pipeline.{key}"]
    try:
        preprocessing = json.loads(metadata.get("pipeline.preprocessing", "{}"))
    except (ValueError, RecursionError):
        preprocessing = None
    if not isinstance(preprocessing, dict) or not preprocessing.keys() <= set(FITTING):
        raise UsageError(
            "the file's metadata `pipeline.preprocessing` is not what `retrain` writes; "
            "state --mean, --std, --range, --layout and --threshold yourself, or remove the entry."
        )
    return parts | preprocessing


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
