"""Readers of strangers' files: valid ones are taken, hostile ones end in a sentence. `make fuzz` tries many more."""

from __future__ import annotations

import io
import json
from random import Random

import numpy as np
import pytest

from pipeline.commands.reopen import pictures
from pipeline.commands.verification import verify
from pipeline.errors import Contradiction, InputRejected
from pipeline.results import DECIDERS, Verdict, read
from tests.fuzz.mutations import members, packed
from tests.fuzz.reports import cases, sealed
from tests.fuzz.targets import TARGETS, execute, mutant

TRIED = {"report": 6, "samples": 6, "counterexamples": 6, "model": 12}


@pytest.mark.parametrize("name", TARGETS)
def test_a_valid_file_is_taken(name):
    assert any(execute(name, seed) for seed in TARGETS[name].seeds()[:3])


@pytest.mark.parametrize("name", TARGETS)
def test_its_hostile_neighbours_are_taken_or_refused_by_a_sentence(name):
    rng = Random(0)
    for _ in range(TRIED.get(name, 40)):
        execute(name, mutant(name, rng))


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(cases()[0].files[f"{name}.npz"])) as stored:
        return dict(stored)


def stored(**columns: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **columns)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"eps = " + b"[" * 5000, b"[" + b"A" * 5000 + b"]\nx = 1"], ids=["deep", "long"])
def test_settings_that_were_found(content):
    assert not execute("toml", content)


@pytest.mark.parametrize("labels", [np.array(3), np.zeros((1, 0)), np.zeros((6, 1, 1), np.int64)], ids=str)
def test_labels_that_were_found(labels):
    assert not execute("npz", stored(x=np.zeros((6, 1, 4, 4), np.float32), y=labels))


def header_that_never_ends(archive: bytes) -> bytes:
    """numpy reads a header as Python reads a literal, and tokenize gives up in its own way."""
    return packed({name: data.replace(b", }", b",  ") for name, data in members(archive).items()})


def names_that_differ(archive: bytes) -> bytes:
    """zipfile quotes the name in the member's own header, of any length."""
    first = bytearray(archive)
    first[26:28] = (1500).to_bytes(2, "little")
    return bytes(first)


def header_of_more_than_there_is(archive: bytes) -> bytes:
    old, new = b"(16,), }" + b" " * 20, b"(%d,), }" % 2**70  # of one length
    return packed({name: data.replace(old, new) for name, data in members(archive).items()})


def member_that_is_no_array(archive: bytes) -> bytes:
    """numpy.load gives such a one as bytes."""
    return packed(dict.fromkeys(members(archive), b"label"))


def encrypted(archive: bytes) -> bytes:
    """The flag alone, in the directory and in the members' headers."""
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        parts = archive.split(mark)
        archive = mark.join([parts[0], *(p[: at - 4] + b"\1" + p[at - 3 :] for p in parts[1:])])
    return archive


@pytest.mark.parametrize(
    "broken",
    [header_that_never_ends, header_of_more_than_there_is, member_that_is_no_array, names_that_differ, encrypted],
)
@pytest.mark.parametrize("name", ["npz", "samples", "counterexamples"])
def test_archives_that_were_found(name, broken):
    execute(name, broken(TARGETS[name].seeds()[0]))


@pytest.mark.parametrize(
    ("file", "column", "value"),
    [
        ("samples", "label", lambda a: a.astype("c8")),
        ("samples", "label", lambda a: a.astype("M8[s]")),
        ("samples", "label", lambda a: np.array(1)),
        ("samples", "index", lambda a: a[:1]),
        ("samples", "verdict", lambda a: a[:, :1]),
        ("samples", "verdict", lambda a: a.astype("i8")),
        ("samples", "survived", lambda a: a[:1]),
        ("samples", "decided_by", lambda a: a.reshape(-1)),
        ("samples", "eps", lambda a: a[:, None]),
        ("samples", "eps", lambda a: np.array(["1e999999999", "2"])),
        ("samples", "eps", lambda a: np.array(["1/0", "2"])),
        ("counterexamples", "image", lambda a: np.array(0.5)),
        ("counterexamples", "predicted", lambda a: np.array(1)),
        ("counterexamples", "eps", lambda a: a[:, None]),
        ("counterexamples", "index", lambda a: a.astype("f8")),
    ],
)
def test_columns_that_were_found(file, column, value, tmp_path):
    """Forged with the digests that belong to them: the columns themselves must be judged before anything is counted."""
    columns = arrays(file)
    content = stored(**{**columns, column: value(columns[column])})
    execute(file, content)
    forged = sealed(cases()[0].files["report.json"], **{file: content})
    cases()[0].write(tmp_path, **{f"{file}.npz": content, "report.json": forged})
    *_, found = verify(tmp_path)
    assert any(file in fault and "holds" in fault for fault in found.faults), found.faults


def test_a_histogram_that_cannot_be_drawn(tmp_path):
    raw = json.loads(cases()[0].files["report.json"])
    raw["result"]["levels"][-1]["margin"]["histogram"]["counts"][0] = -1
    cases()[0].write(tmp_path, **{"report.json": sealed(json.dumps(raw).encode())})
    with pytest.raises(Contradiction, match="counts no number of samples"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("what", "said"), [({"label": -(2**31)}, "numbered from 0"), ({"attacked": None}, "attacked as the level is")]
)
def test_a_class_that_none_can_be(what, said, tmp_path):
    raw = json.loads(cases()[0].files["report.json"])
    raw["result"]["per_class"][-1].update(what)
    cases()[0].write(tmp_path, **{"report.json": sealed(json.dumps(raw).encode())})
    with pytest.raises(Contradiction, match=said):
        read(tmp_path)


@pytest.mark.parametrize("index", [-1, 360, 2**62])
def test_a_sample_that_the_data_do_not_hold(index, tmp_path):
    columns = arrays("samples")
    columns["index"][0] = index
    content = stored(**columns)
    execute("samples", content)
    forged = sealed(cases()[0].files["report.json"], samples=content)
    cases()[0].write(tmp_path, **{"samples.npz": content, "report.json": forged})
    with pytest.raises(Contradiction, match=rf"have 360 samples; samples.npz names number {index}\."):
        pictures(tmp_path, "digits")


@pytest.mark.parametrize(
    ("where", "what", "said"),
    [
        ("attack", {"steps": 2**31 - 1}, "attack of a report, of at most 10000 steps"),
        ("attack", {"steps": -1}, "greater than or equal to 1"),
        ("attack", {"seed": -1}, "greater than or equal to 0"),
        ("attack", {"step_size": "1e999999999 eps"}, "should match pattern"),
        (None, {"provider": "x"}, "report.json: provider is refused"),
    ],
)
def test_a_method_that_cannot_be_repeated(where, what, said, tmp_path):
    raw = json.loads(cases()[0].files["report.json"])
    method = raw["result"]["method"]
    (method[where] if where else method).update(what)
    about = cases()[0].write(tmp_path, **{"report.json": sealed(json.dumps(raw).encode())})
    with pytest.raises(InputRejected, match=said):
        list(verify(tmp_path, **about))


@pytest.mark.parametrize(("key", "value"), [("model", {"file": "m.onnx"}), ("methods", [])])
def test_an_answer_without_its_parts(key, value, tmp_path):
    raw = json.loads(cases()[2].files["report.json"])
    raw["result"][key] = value
    about = cases()[2].write(tmp_path, **{"report.json": sealed(json.dumps(raw).encode())})
    with pytest.raises(InputRejected, match="This is no report"):
        list(verify(tmp_path, **about))


def test_a_proof_by_what_proves_nothing(tmp_path):
    """The rungs of report.json are forged to agree."""
    columns, raw = arrays("samples"), json.loads(cases()[0].files["report.json"])
    columns["decided_by"][columns["verdict"] == Verdict.CERTIFIED] = DECIDERS.index("pgd")
    pgd, ibp = raw["result"]["levels"][0]["rungs"]
    pgd.update(decided=ibp["decided"], certified=ibp["certified"])
    ibp["decided"] = 0
    content = stored(**columns)
    forged = sealed(json.dumps(raw).encode(), samples=content)
    about = cases()[0].write(tmp_path, **{"samples.npz": content, "report.json": forged})
    with pytest.raises(InputRejected, match="the report says 'pgd'"):
        list(verify(tmp_path, **(about | {"recheck": 16})))


@pytest.mark.parametrize("value", ["\x1b[31m", "9" * 5000])
def test_a_rate_that_would_paint_the_terminal(value):
    raw = json.loads(cases()[0].files["report.json"])
    raw["result"]["levels"][0]["certified"]["value"] = value
    execute("report", json.dumps(raw).encode())


def test_a_rung_that_there_is_not(tmp_path):
    raw = json.loads(cases()[0].files["report.json"])
    raw["result"]["levels"][0]["rungs"][0]["name"] = "magic"
    content = json.dumps(raw).encode()
    execute("report", content)
    cases()[0].write(tmp_path, **{"report.json": sealed(content)})
    *_, found = verify(tmp_path)
    assert any("'magic'" in fault for fault in found.faults)
