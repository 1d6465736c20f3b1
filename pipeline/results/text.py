"""Strangers' text made fit to be shown: one line, no control characters, no endless names."""

from __future__ import annotations

import re
import unicodedata

LIMIT = 200
ANSI = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?")


# What a build server obeys where it stands in a log: `::error::` of GitHub, `##vso[` of Azure, `##[` of both.
COMMAND = re.compile(r":(?=:)|#(?=#)")


def clean(text: object, limit: int = LIMIT) -> str:
    """`text` on one line, without escape sequences, control or direction characters, cut at `limit` characters.

    What a build server would obey is set apart: nothing in a name is a command.
    """
    line = ANSI.sub("", str(text)[: 8 * limit])
    kept = "".join(" " if c.isspace() else c for c in line if c.isspace() or unicodedata.category(c)[0] != "C")
    kept = COMMAND.sub(r"\g<0> ", kept)
    return kept if len(kept) <= limit and len(str(text)) <= 8 * limit else kept[: limit - 1] + "…"


def quoted(json: str) -> str:
    """JSON as a build server's log may hold it: the same values, and no command."""
    return json.replace("##", "#\\u0023")


def percent(value: str) -> str:
    """A rate such as "0.3127" as "31.27 %", by moving the point."""
    digits = value.replace(".", "").lstrip("0").rjust(3, "0")
    return f"{digits[:-2]}.{digits[-2:]} %"


def count(number: int) -> str:
    """A number with its thousands set apart by thin spaces: 17 174 250."""
    return f"{number:,}".replace(",", "\u202f")
