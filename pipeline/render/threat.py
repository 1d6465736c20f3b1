"""What an attacker may do to a sample, in words."""

from __future__ import annotations

from pipeline.results.text import clean
from pipeline.results.threat import Features, Threat

SHOWN = 8
PIXELS = "the pixel range"


def who(threat: Threat) -> str:
    """Norm, and what it is over."""
    if threat.features is not None:
        return f"L∞, each feature by ε times its own radius ({moving(threat.features)})"
    return "L∞, every pixel" if threat.norm == "linf" else "L2, all pixels together, each"


def where(threat: Threat) -> str:
    """The range that a perturbed value lies in."""
    if threat.features is not None:
        return "within the range of each feature" if threat.clip else "without a range"
    return f"in [{threat.range[0]:g}, {threat.range[1]:g}]"


def sentence(threat: Threat) -> str:
    """What may change, for a page."""
    low, high = threat.range
    if threat.features is not None:
        radii = f"Each feature may change by up to ε times its own radius: {clean(threat.features.units, 200)}"
        return f"{radii}; {moving(threat.features)}."
    what = (
        "Every pixel may change by up to ε"
        if threat.norm == "linf"
        else "All pixels together may change by up to ε in the Euclidean norm"
    )
    return f"{what}, within [{low:g}, {high:g}]."


def units(threat: Threat) -> str:
    """Those of eps."""
    return PIXELS if threat.features is None else clean(threat.features.units, 60)


def moving(features: Features) -> str:
    """How many features may move, and which do not."""
    fixed, count = features.fixed, len(features.radii)
    if not fixed:
        return f"all {count} features may move"
    names = ", ".join(clean(name, 30) for name in fixed[:SHOWN]) + (", …" if len(fixed) > SHOWN else "")
    return f"{count - len(fixed)} of {count} features may move; fixed: {names}"
