"""Properties of others, where the folder is (PIPELINE_CORPUS): all are read, known counterexamples stand, proofs agree."""

from __future__ import annotations

import json
import os
from fractions import Fraction as Q
from pathlib import Path

import numpy as np
import pytest

from pipeline.certify.witness import check
from pipeline.commands.events import PropertyDone
from pipeline.commands.properties import decide
from pipeline.vnnlib import parse, read
from tests.onnx.files import session as file_session

pytestmark = [pytest.mark.corpus, pytest.mark.slow]
CORPUS = Path(os.environ.get("PIPELINE_CORPUS", ""))
INDEX = CORPUS / "index.json"
MODELS = json.loads(INDEX.read_text()) if os.environ.get("PIPELINE_CORPUS") and INDEX.is_file() else []
LARGE = "mscn_128d__cardinality_0_"  # tens of megabytes of text
SMALL = [
    (m, p) for m in MODELS for p in m["properties"] if LARGE not in p["vnnlib"] and "lindex_5000" not in p["vnnlib"]
]
WITHIN_TOLERANCE_ONLY = "vdp_6"
"""Its counterexample meets the output constraints within 1e-4 and not exactly."""


def named(pairs):
    return [pytest.param(m, p, id=Path(p["vnnlib"]).name.partition(".vnnlib")[0]) for m, p in pairs]


@pytest.mark.parametrize(("model", "entry"), named(SMALL))
def test_every_property_is_read(model, entry):
    unsafe_set = parse(read(CORPUS / entry["vnnlib"]))
    assert (unsafe_set.inputs, unsafe_set.outputs) == (entry["nx"], entry["ny"])
    assert unsafe_set.cases
    assert unsafe_set.vacuous == 0


@pytest.mark.parametrize(("model", "entry"), named((m, p) for m, p in SMALL if "cex" in p))
def test_counterexamples_of_other_tools_are_accepted(model, entry):
    """Theirs are float32 of decimal bounds, up to half a unit outside: the exact input is the nearest point of the box."""
    text = read(CORPUS / entry["vnnlib"])
    session = file_session(CORPUS / model["file"])
    point = np.load(CORPUS / entry["cex"]).reshape(-1).astype(np.float32)
    shape = [d or 1 for d in session.shapes[0]]

    def run(x):
        return session(x.reshape(shape))[0].reshape(-1)

    witnesses = []
    for case in parse(text).cases:
        ends = zip(point, case.lower, case.upper, strict=True)
        witnesses.append(check(text, [min(max(Q(float(p)), a), b) for p, a, b in ends], run))
    accepted = [w for w in witnesses if w.refused is None and (w.point == point).all()]
    assert bool(accepted) == (WITHIN_TOLERANCE_ONLY not in entry["vnnlib"])


QUICK = [
    pair for pair in SMALL if any(name in pair[1]["vnnlib"] for name in ("prop_7_0.03", "rl_bench", "hyperrectangle_1"))
]


@pytest.mark.parametrize(("model", "entry"), named(QUICK))
@pytest.mark.parametrize("attack", [False, True])
def test_verdicts_agree_with_what_is_known(model, entry, attack):
    flags = {"attack": attack, "time_budget": 5.0 if attack else 1.0}
    (decision,) = (
        event
        for event in decide(CORPUS / model["file"], CORPUS / entry["vnnlib"], flags, keep=False)
        if isinstance(event, PropertyDone)
    )
    verdict = {"unsat": "holds", "sat": "violated" if attack else "timeout"}[entry["result"]]
    assert decision.report.result.verdict in (verdict, "timeout")
    assert (decision.report.result.verdict == "violated") == (attack and entry["result"] == "sat")
