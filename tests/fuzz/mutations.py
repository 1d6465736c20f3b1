"""Hostile neighbours of a valid file: bytes changed, and where its structure is known, its values."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import onnx

Mutator = Callable[[bytes, Random], bytes]

NUMBERS = (0, 1, -1, 2, 7, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63))
REALS = (0.0, -0.0, 1e-45, 1e-310, 1e38, 1e300, math.inf, -math.inf, math.nan, 0.1, -1.0)
TEXTS = (
    "",
    "x",
    "../../etc/passwd",
    "\x00",
    "\x1b[31m",
    "1/0",
    "1e999999999",
    "9" * 400,
    "nan",
    "\ud7ff\u202e",
    "A" * 5000,
    "1_0",
)
JSONS = (None, True, [], {}, [[]], {"a": 1}, "8/255", *NUMBERS, *TEXTS, 1e300, -1e300, 10**400)


def flipped(content: bytes, rng: Random) -> bytes:
    """A few edits of bytes: one changed, a run removed, repeated, or written anew; the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            return bytes(rng.randbytes(8))
        at, n = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 8, 64))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del data[at : at + n]
        elif kind == 3:
            data[at:at] = data[at : at + n] * rng.choice((1, 2, 50))
        elif kind == 4:
            data[at : at + n] = rng.randbytes(n)
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)


def of_text(content: bytes, rng: Random) -> bytes:
    """Words changed for others of the text, for hostile ones, or repeated; parentheses and brackets unbalanced."""
    words = content.decode("utf-8", "replace").split(" ")
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(words))
        kind = rng.randrange(5)
        if kind == 0:
            words[at] = rng.choice(words)
        elif kind == 1:
            words[at] = str(rng.choice((*NUMBERS, *REALS, *TEXTS)))
        elif kind == 2:
            words[at:at] = words[at : at + 5] * rng.choice((1, 3, 2000))
        elif kind == 3:
            del words[at]
        else:
            words[at] += rng.choice(
                ("(", ")", "(((" * 500, "[", "]", '"', ";", "\n", "=", "|", "-", "/0", "e9", "[[" * 3000)
            )
    return " ".join(words).encode("utf-8", "replace")


def of_json(content: bytes, rng: Random) -> bytes:
    """Values changed for hostile ones or for others of the document, keys lost and doubled, nests made."""
    document = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(document, rng)
    return json.dumps(document).encode("utf-8", "replace")


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every container and key of a document."""
    found, pending = [], [document]
    while pending:
        here = pending.pop()
        keys = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
        found += [(here, key) for key in keys]
        pending += [here[key] for key in keys]
    return found


def _change(document: Any, rng: Random) -> None:
    everywhere = places(document)
    if not everywhere:
        return
    # A long list of numbers must not draw all changes.
    here, key = rng.choice(everywhere)
    kind = rng.randrange(5)
    if kind == 0:
        del here[key]
    elif kind == 1:
        other, name = rng.choice(everywhere)
        here[key] = json.loads(json.dumps(other[name])) if len(everywhere) < 20_000 else None
    elif kind == 2 and isinstance(here[key], list) and here[key]:
        here[key] = here[key] * rng.choice((0, 2, 30))
    elif kind == 3 and isinstance(here[key], int | float) and not isinstance(here[key], bool):
        here[key] = rng.choice((here[key] + 1, -here[key], here[key] * 1e6, str(here[key])))
    else:
        here[key] = rng.choice(JSONS)


def of_model(content: bytes, rng: Random) -> bytes:
    """Fields of the protobuf message changed: operators, names, attributes, sizes, types; nodes lost, doubled, moved."""
    model = onnx.load_from_string(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change_message(model, model, rng)
    return model.SerializeToString()


def _change_message(model: onnx.ModelProto, message: Any, rng: Random) -> None:
    fields = message.ListFields()
    if not fields:
        return
    field, value = rng.choice(fields)
    name = field.name
    if field.message_type is not None:
        if not hasattr(value, "append"):
            return _change_message(model, value, rng)
        at = rng.randrange(len(value))
        kind = rng.randrange(8)
        if kind == 0:
            del value[at]
        elif kind == 1:
            value.add().CopyFrom(value[at])
        elif kind == 2:
            value[at].CopyFrom(rng.choice(value))
        else:
            return _change_message(model, value[at], rng)
        return None
    repeated = hasattr(value, "append")
    old = value[rng.randrange(len(value))] if repeated and len(value) else value
    new = _leaf(model, name, old, rng)
    try:
        if repeated:
            at = rng.randrange(len(value)) if len(value) else 0
            kind = rng.randrange(4)
            if kind == 0:
                del value[at]
            elif kind == 1:
                value.append(new)
            else:
                value[at] = new
        else:
            setattr(message, name, new)
    except (TypeError, ValueError):
        message.ClearField(name)
    return None


def _leaf(model: onnx.ModelProto, name: str, old: Any, rng: Random) -> Any:
    if name == "op_type":
        return rng.choice((*(n.op_type for n in model.graph.node), *OPERATORS))
    if name in ("input", "output", "name") and isinstance(old, str):
        values = [v for n in model.graph.node for v in (*n.input, *n.output)]
        return rng.choice((*values, *(i.name for i in model.graph.initializer), *TEXTS[:6], "x", "y"))
    if isinstance(old, bytes):
        return flipped(old, rng)
    if isinstance(old, str):
        return rng.choice(TEXTS)
    if isinstance(old, float):
        return rng.choice(REALS)
    return rng.choice((*NUMBERS, old + 1, old - 1, 3, 4, 6, 10, 11))


OPERATORS = tuple(sorted({s.name for s in onnx.defs.get_all_schemas()}))


def of_archive(content: bytes, rng: Random) -> bytes:
    """Bytes of one member changed, under the checksum that they have now."""
    found = members(content)
    name = rng.choice(sorted(found))
    return packed(found | {name: flipped(found[name], rng)})


def members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def packed(found: dict[str, bytes]) -> bytes:
    """As numpy stores arrays: uncompressed."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in found.items():
            archive.writestr(name, content)
    return made.getvalue()


def of_arrays(content: bytes, rng: Random) -> bytes:
    """Members of an npz archive with other values, types and shapes, under other names, or lost."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(arrays)) if arrays else "x"
        arrays[name] = _other(arrays.get(name, np.zeros(3)), rng)
        if rng.random() < 0.15:
            arrays[rng.choice(("x", "y", "x_test", "eps", "label"))] = arrays.pop(name)
        elif rng.random() < 0.1:
            del arrays[name]
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def _other(array: np.ndarray, rng: Random) -> np.ndarray:
    kind = rng.randrange(7)
    with np.errstate(all="ignore"):
        try:
            if kind == 0:
                return array.astype(
                    rng.choice(("u1", "i1", "i8", "u8", "f2", "f4", "f8", "?", "U7", "S3", "c8", "M8[s]"))
                )
            if kind == 1:
                return array[: rng.randrange(len(array) + 1)]
            if kind == 2:
                return array.reshape(rng.choice(((-1,), (1, -1), (-1, 1), (*array.shape, 1), (1, *array.shape))))
            if kind == 3:
                return np.concatenate([array, array])
            if kind == 4:
                return np.zeros(rng.choice(((0,), (), (0, 3), (3, 0, 2), (2, 2, 2, 2, 2, 2))), array.dtype)
            changed = array.copy()
            changed.reshape(-1)[rng.randrange(changed.size)] = rng.choice((*REALS, *NUMBERS[:6], "1/0", "2"))
            return changed
        except (ValueError, TypeError, IndexError, OverflowError):
            return np.array(rng.choice((*REALS, "8/255", True)))
