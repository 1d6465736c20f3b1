"""The canonical JSON form of a result (RFC 8785) and its digest, which can be recomputed from report.json."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import rfc8785

Version = Literal["1", "2"]
"""The version of the schema: 2 is written; 1, with a canonical form of its own, is still read."""
LARGEST = 2**53 - 1
"""The largest whole number that all JSON readers represent exactly: a result has no larger one."""


def canonical(value: Any, version: Version = "2") -> bytes:
    """The bytes of RFC 8785; for version 1, sorted keys, no whitespace, and numbers as Python writes them.

    Raises ValueError for values without such a form: NaN, infinity, whole numbers beyond 2^53, invalid Unicode, too deep nesting.
    """
    try:
        if version == "2":
            return rfc8785.dumps(value)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def digest(value: Any, version: Version = "2") -> str:
    """SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(value, version)).hexdigest()
