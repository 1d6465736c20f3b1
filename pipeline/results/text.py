"""Makes untrusted text safe to show: one line, no control characters, limited length."""

from __future__ import annotations

import re
import unicodedata

LIMIT = 200
ANSI = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?")


# The beginnings of commands that build servers obey in logs: `::error::` of GitHub, `##vso[` of Azure, `##[` of both.
COMMAND = re.compile(r":(?=:)|#(?=#)")


def clean(text: object, limit: int = LIMIT) -> str:
    """`text` on one line, without escape sequences, control or direction characters, cut at `limit` characters.

    Commands of build servers are broken up by a space, so that no name acts as one.
    """
    line = ANSI.sub("", str(text)[: 8 * limit])
    line = "".join(" " if c.isspace() else c for c in line if c.isspace() or unicodedata.category(c)[0] != "C")
    line = COMMAND.sub(r"\g<0> ", line)
    return line if len(line) <= limit and len(str(text)) <= 8 * limit else line[: limit - 1] + "…"


def quoted(json: str) -> str:
    """JSON with the same values in which a build server's log finds no command."""
    return json.replace("##", "#\\u0023")


def percent(value: str) -> str:
    """A rate such as "0.3127" as "31.27 %", by moving the point."""
    digits = value.replace(".", "").lstrip("0").rjust(3, "0")
    return f"{digits[:-2]}.{digits[-2:]} %"


def count(number: int) -> str:
    """A number with thin spaces between its thousands: 17 174 250."""
    return f"{number:,}".replace(",", "\u202f")
