"""Properties and counterexamples as VNN-LIB text that other tools read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

from pipeline.errors import PipelineError

PLACES = 25
"""Decimals after the point; a number with more is rounded outward."""


def outward(value: Fraction, *, up: bool) -> str:
    """A decimal at most ``value`` (at least, if ``up``), equal to it where 25 places suffice."""
    units = value * 10**PLACES
    digits = -((-units) // 1) if up else units // 1
    text = f"{abs(digits):0{PLACES + 1}d}"
    fraction = text[-PLACES:].rstrip("0") or "0"
    return f"{'-' if digits < 0 else ''}{text[:-PLACES]}.{fraction}"


def exact(value: Fraction) -> str:
    """The decimal that equals ``value``; ``p/q`` where none does."""
    with localcontext() as context:
        context.prec = 1000
        context.clear_flags()
        decimal = Decimal(value.numerator) / Decimal(value.denominator)
        return str(decimal) if Fraction(decimal) == value else f"{value.numerator}/{value.denominator}"


def robustness(
    lower: Sequence[Fraction],
    upper: Sequence[Fraction],
    label: int,
    classes: int,
    comments: Iterable[str] = (),
    threshold: Fraction | None = None,
) -> str:
    """The property that some input of the box gets another label: ``Y_j >= Y_label`` for some other ``j``.

    With a threshold, of the one output: ``Y_0 <= threshold`` for label 1, ``Y_0 >= threshold`` for label 0.

    The written box contains the given one, and equals it in every end that has at most 25 decimals. Raises PipelineError where
    ``label`` is not one of ``classes``.
    """
    if not 0 <= label < classes:
        raise PipelineError(f"the label is one of {classes} classes; received {label}.")
    lines = [f"; {comment}" for comment in comments]
    lines += [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(classes if threshold is None else 1)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines.append(f"(assert (>= X_{i} {outward(low, up=False)}))")
        lines.append(f"(assert (<= X_{i} {outward(high, up=True)}))")
    if threshold is not None:
        return "\n".join([*lines, f"(assert ({'<=' if label else '>='} Y_0 {exact(threshold)}))"]) + "\n"
    others = "".join(f"\n    (and (>= Y_{j} Y_{label}))" for j in range(classes) if j != label)
    lines.append(f"(assert (or{others}\n))")
    return "\n".join(lines) + "\n"


def counterexample(x: Sequence[Fraction], y: Sequence[Fraction]) -> str:
    """A witness as the competition writes it: ``sat``, then every input and output with its value."""
    values = [f"(X_{i} {exact(v)})" for i, v in enumerate(x)] + [f"(Y_{j} {exact(v)})" for j, v in enumerate(y)]
    return "sat\n(" + "\n ".join(values) + ")\n"
