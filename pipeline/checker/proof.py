"""A proof of one sample, replayed: its leaves cover the box, and in each every margin has a positive lower bound."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.checker.bounds import FLUSHED_COPY, LARGEST, CheckerBounds, Fault, Lines, some
from pipeline.checker.graph import FileGraph
from pipeline.checker.maps import Array
from pipeline.errors import InputRejected

MANIFEST = "proofs.json"
BYTES = 2**31
"""The largest file that is read, and the most that its arrays may take."""
ARRAYS: dict[str, Any] = {"x": np.float32, "alpha": np.float64, "beta": np.float64, "box_alpha": np.float64}
ARRAYS |= dict.fromkeys(("row", "split", "sign", "relu", "at", "box_at", "box_sign"), np.int64)
Places = list[tuple[int, Array, Array]]
"""Of each ReLU that a proof is about: its value, which columns of the arrays are its own, and the entries that these are."""


@dataclass(frozen=True)
class Checked:
    """What came of one proof: the least bound of any margin in any leaf, or why it does not hold."""

    index: int
    label: int
    eps: str
    leaves: int = 0
    margin: float = 0.0
    fault: str = ""


def manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """What a folder says that its proofs are about, and the digest of that. Raises InputRejected (3)."""
    try:
        content = _read(folder / MANIFEST)
        claims = json.loads(content)
        claims["normalise"] = [np.array(each, np.float32) for each in claims["normalise"]]
        claims["about"] = [Checked(int(e["index"]), int(e["label"]), str(e["eps"])) for e in claims["samples"]]
        if claims["format"] != 1 or claims["arithmetic"] not in ("float32-any-order", "real"):
            raise ValueError("another format or arithmetic")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputRejected(f"{MANIFEST} says what is proved, and cannot be read: {error}. Prove again.") from error
    return claims, hashlib.sha256(content).hexdigest()


def check(content: bytes, folder: Path) -> Iterator[Checked]:
    """Every proof of a folder, against the bytes of a model. Raises InputRejected (3) for a model that is not known."""
    claims, _ = manifest(folder)
    graph = FileGraph(content, claims["normalise"])
    for about, entry in zip(claims["about"], claims["samples"], strict=True):
        try:
            if claims["model_sha256"] != graph.sha256:
                raise Fault("the model is another than the one that was proved")
            arrays = arrays_of(folder, about, entry)
            bounds, leaves = _opened(graph, claims, about, bool(entry["tighten"]), arrays)
            yield replace(about, leaves=len(arrays["row"]), margin=_least(bounds, leaves, arrays["row"], about.label))
        except Exception as error:  # whatever a stranger's arrays lead to, they prove nothing
            yield replace(about, fault=str(error) or type(error).__name__)


def _read(path: Path) -> bytes:
    """What a regular file holds. Raises OSError."""
    if not path.is_file() or path.stat().st_size > BYTES:
        raise OSError(f"{path.name} is no file, or has more than 2 GiB")
    return path.read_bytes()


def arrays_of(folder: Path, about: Checked, entry: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of a proof, each of the kind of numbers that it has. Raises Fault, and whatever numpy may."""
    content = _read(folder / f"{about.index}.npz")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise Fault("the file is not the one of its digest")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        if sum(member.file_size for member in stored.zip.infolist()) > BYTES:
            raise Fault("arrays of more than 2 GiB")
        return {name: stored[name].astype(kind) for name, kind in ARRAYS.items()}


@np.errstate(all="ignore")
def _opened(
    graph: FileGraph, claims: Mapping[str, Any], about: Checked, tighten: bool, arrays: Mapping[str, Array]
) -> tuple[CheckerBounds, Mapping[int, Lines]]:
    """The boxes of a sample, and what its leaves assume, once they are found to be in order. Raises Fault."""
    alpha, split, beta, rows = (arrays[name] for name in ("alpha", "split", "beta", "row"))
    for what, values, high in (("slope", alpha, 1), ("slope", arrays["box_alpha"], 1), ("multiplier", beta, LARGEST)):
        if not ((values >= 0) & (values <= high)).all():
            raise Fault(f"a {what} below 0 or above {high}")
    if alpha.shape != (len(rows), len(arrays["relu"])) or arrays["x"].size != math.prod(graph.shapes[0]):
        raise Fault("arrays of other shapes than the model and the leaves have")
    signs, betas = np.zeros(alpha.shape), np.zeros(alpha.shape)
    signs[tuple(split.T)], betas[tuple(split.T)] = np.sign(arrays["sign"]), beta
    for row in np.unique(rows):
        _require_cover(signs[rows == row], f"class {row}")
    places, at, near = _places(graph, arrays["relu"], arrays["at"]), arrays["box_at"], {}
    for k, relu in enumerate(graph.relus):
        if (mine := at[:, 0] == k).any():
            slopes, sign = arrays["box_alpha"][mine], np.where(arrays["box_sign"][mine] > 0, 1.0, -1.0)
            lines = _lines(graph, places, slopes, 0 * slopes, 0 * slopes)
            near[graph.steps[relu - 1].inputs[0]] = at[mine, 1], sign, lines
    box = _box(arrays["x"].ravel(), claims["range"], about.eps)
    bounds = CheckerBounds(graph, box, near, deployed=claims["arithmetic"] != "real", tighten=tighten)
    return bounds, _lines(graph, places, alpha, signs, betas)


@np.errstate(all="ignore")
def _least(bounds: CheckerBounds, leaves: Mapping[int, Lines], rivals: Array, label: int) -> float:
    """The least bound of the margin ``z_label - z_rival`` in any leaf. Raises Fault where one is not positive."""
    output, lowest = bounds.graph.output, math.inf
    classes, needed = len(bounds.values[output].lower), 2 * FLUSHED_COPY if bounds.deployed else 0.0
    if not 0 <= label < classes or set(rivals.tolist()) != set(range(classes)) - {label}:
        raise Fault("leaves that are not about each other class than the label")
    for rows in some(len(rivals)):
        form = np.zeros((len(rivals[rows]), classes))
        form[np.arange(len(form)), rivals[rows]], form[:, label] = -1, 1
        least = bounds.least({output: form}, {}, tail=True)
        if not (least > needed).all():
            lines = {relu: (a[rows], s[rows], b[rows]) for relu, (a, s, b) in leaves.items()}
            least = np.maximum(least, bounds.least({output: form}, lines))
        for leaf in np.flatnonzero(~(least > needed)):
            rival = rivals[rows][leaf]
            raise Fault(f"leaf {rows.start + leaf}: the margin to class {rival} is only at least {least[leaf]:.3g}")
        lowest = min(lowest, float(least.min()))
    return lowest


def _require_cover(signs: Array, what: str) -> None:
    """Raise Fault unless leaves, (leaves, neurons), are disjoint and their volumes add up to one: ``sum 2^-depth = 1``."""
    apart = (signs > 0).astype(float) @ (signs < 0).T
    volume = sum((Fraction(1, 2 ** int(depth)) for depth in (signs != 0).sum(1)), Fraction(0))
    if not (apart + apart.T + np.eye(len(signs)) > 0).all() or volume != 1:
        raise Fault(
            f"{what}: leaves overlap or leave something out, as a missing sibling does; they add up to {volume}"
        )


def _box(x: Array, valid: tuple[float, float], eps: str) -> tuple[Array, Array]:
    """``[x - r, x + r]`` within the valid range, rounded outward; ``r = eps (high - low)``, exact before it is rounded."""
    (low, high), center = valid, x.astype(np.float64)
    radius = Fraction(eps if len(eps) < 99 and "e" not in eps.lower() else -1) * (Fraction(high) - Fraction(low))
    if not ((center >= low) & (center <= high)).all() or radius < 0:
        raise Fault("a sample outside of the valid range, or an eps that is no plain number or negative")
    r = np.nextafter(float(radius), np.inf)
    return np.maximum(np.nextafter(center - r, -np.inf), low), np.minimum(np.nextafter(center + r, np.inf), high)


def _places(graph: FileGraph, relu: Array, at: Array) -> Places:
    """Raises Fault for neurons that are named twice, or are none."""
    parts = [(value, np.flatnonzero(relu == k), at[relu == k]) for k, value in enumerate(graph.relus)]
    once = all(len(np.unique(entries)) == len(entries) and (entries >= 0).all() for _, _, entries in parts)
    if not once or sum(len(columns) for _, columns, _ in parts) != len(relu):
        raise Fault("neurons that are named twice, or are none")
    return [place for place in parts if len(place[1])]


def _lines(graph: FileGraph, places: Places, *arrays: Array) -> dict[int, Lines]:
    """Slopes, signs and multipliers by ReLU, (rows, entries): of neurons that are not given NaN, 0 and 0."""
    lines: dict[int, Lines] = {}
    for value, columns, entries in places:
        shape = len(arrays[0]), math.prod(graph.shapes[value])
        lines[value] = np.full(shape, np.nan), np.zeros(shape), np.zeros(shape)
        for whole, part in zip(lines[value], arrays, strict=True):
            whole[:, entries] = part[:, columns]
    return lines
