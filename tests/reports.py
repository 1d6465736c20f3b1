"""Reports to test with: plausible, built from verdicts per sample by the same functions that the program uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.gates import evaluate, parse_gate, verdict
from pipeline.results import (
    Accuracies,
    Attack,
    Caution,
    Data,
    Input,
    Layer,
    LevelDetails,
    Method,
    Model,
    Output,
    Parity,
    Preprocessing,
    Report,
    Result,
    Run,
    Samples,
    Selection,
    Threat,
    Tool,
    Training,
    Unfinished,
    Verdict,
    levels,
    per_class,
)

HOSTILE = "\x1b[31m<script>alert(1)</script>[red]::error::\u202e\r\n\x00" + "A" * 1_000_000
SHA = "c0ffee" * 10 + "c0de"


def build_samples(
    eps: tuple[str, ...] = ("8/255",), *, n: int = 400, classes: int = 10, attack: bool = True, trained: bool = True
) -> Samples:
    """Samples whose margins fall with eps, without a contradiction among them."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, classes, n)
    predicted = np.where(rng.random(n) < 0.93, label, (label + 1) % classes)
    strength = rng.normal(3.0 if trained else -4.0, 1.5, n) - 0.2 * label
    radius = np.array([float(eval_fraction(e)) for e in eps])[:, None]
    margin = np.where(predicted == label, strength, -1.0) - 60 * radius
    correct = np.broadcast_to(predicted == label, margin.shape)
    survived = margin > -2.0
    code = np.full(margin.shape, Verdict.UNKNOWN)
    code[margin > 0] = Verdict.CERTIFIED
    if attack:
        code[~survived] = Verdict.FALSIFIED
    code[~correct] = Verdict.MISCLASSIFIED
    margin = np.where(correct, margin, -1.0 - 60 * radius)
    return Samples(
        eps=eps,
        index=np.arange(n),
        label=label,
        predicted=predicted,
        verdict=code.astype(np.uint8),
        margin_lower=margin,
        survived=survived if attack else None,
    )


def eval_fraction(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def build_result(
    samples: Samples, *, gates: tuple[str, ...] = (), training: Training | None = None, **over: Any
) -> Result:
    """A result of these samples; keyword arguments replace its parts."""
    rows, classes = (
        levels(samples, details=[LevelDetails(LAYERS), *[LevelDetails()] * (len(samples.eps) - 1)]),
        per_class(samples),
    )
    outcomes = evaluate([parse_gate(gate) for gate in gates], rows, classes)
    parts: dict[str, Any] = {
        "tool": Tool(name="pipeline", version="0.1.0"),
        "model": Model(
            file="digits.onnx",
            sha256=SHA,
            bytes=148_412,
            ir_version=10,
            opsets={"": 17},
            input=Input(name="x", dtype="float32", shape=("N", 1, 8, 8)),
            output=Output(name="logits", shape=("N", 10), classes=10),
            parameters=36_874,
            ops={"Conv": 2, "Relu": 3, "Gemm": 2, "Flatten": 1},
        ),
        "preprocessing": Preprocessing(source="assumed", range=(0.0, 1.0), layout="NCHW"),
        "data": Data(
            uri="digits",
            part="test",
            sha256=SHA,
            n_total=len(samples),
            n_evaluated=len(samples),
            selection=Selection(method="all"),
            class_names=tuple("0123456789"),
        ),
        "threat": Threat(range=(0.0, 1.0)),
        "method": Method(
            bounds=("ibp",),
            dtype="float64",
            arithmetic="float32-any-order",
            statement="For every certified sample, no input in the box changes the predicted class of the delivered "
            "file, in float32 arithmetic and in any order of evaluation.",
            assumptions=(
                "Every sum and product is rounded to nearest, as IEEE 754 demands.",
                "TF32, bfloat16 and Winograd convolutions are off.",
            ),
            attack=Attack(name="pgd", steps=10, restarts=1, step_size="0.25 eps", loss="margin", seed=0)
            if samples.survived is not None
            else None,
            provider="CPUExecutionProvider",
        ),
        "parity": Parity(
            provider="CPUExecutionProvider",
            n=256,
            tolerance=1e-4,
            max_abs_difference=3.2e-6,
            scale=17.4,
            argmax_disagreements=0,
            batch_sizes=(1, 16),
        ),
        "levels": rows,
        "per_class": classes,
        "samples": samples.described,
        "gates": outcomes,
        "warnings": (Caution(message="Values were taken as [0, 1]; say --range if the model takes others."),),
        "verdict": verdict(outcomes),
        "training": training,
    }
    return Result(**{**parts, **over})


LAYERS = (
    Layer(name="relu_1", kind="Relu", unstable=0.11, active=0.4, inactive=0.49, mean_radius=0.2, looseness=1.4),
    Layer(name="relu_2", kind="Relu", unstable=0.21, active=0.3, inactive=0.49, mean_radius=0.7, looseness=5.5),
)


def build_report(eps: tuple[str, ...] = ("8/255",), *, retrained: bool = False, **over: Any) -> Report:
    """A report; `trained=False` for a model that certifies nothing."""
    names = ("n", "classes", "attack", "trained")
    samples = build_samples(eps, **{name: over.pop(name) for name in names if name in over})
    if retrained:
        over["training"] = build_training(eps[-1], samples)
    result = build_result(samples, **over)
    run = Run(started="2026-11-20T10:00:00Z", seconds=12.3, argv=("pipeline", "certify", "digits.onnx"))
    return Report.of("retraining" if retrained else "certification", result, run)


def build_training(eps: str, samples: Samples) -> Training:
    """Curves of a schedule with a warmup, and an ordinary model before."""
    after = levels(samples)[-1]
    before = levels(build_samples((eps,), n=len(samples), trained=False))[0]
    curves = []
    for epoch in range(60):
        ramp = min(max((epoch - 2) / 30, 0), 1)
        curves.append(
            {
                "epoch": epoch,
                "eps": 0.1 * ramp,
                "loss": 2.3 / (1 + epoch / 3) + ramp * 0.6,
                "natural": 0.97 - 0.5 / (1 + epoch),
                "certified": max(0.0, 0.9 - 1.2 / (1 + epoch / 4)),
            }
        )
    return Training(
        recipe={"name": "shi2021", "epochs": 60, "batch_size": 128, "seed": 0},
        curves=tuple(curves),
        before=Accuracies(eps=eps, natural=before.natural, attacked=before.attacked, certified=before.certified),
        after=Accuracies(eps=eps, natural=after.natural, attacked=after.attacked, certified=after.certified),
        parent_sha256=SHA,
    )


@pytest.fixture
def make_samples() -> Callable[..., Samples]:
    return build_samples


@pytest.fixture
def make_result() -> Callable[..., Result]:
    return build_result


@pytest.fixture
def make_report() -> Callable[..., Report]:
    return build_report


@pytest.fixture
def hostile_name() -> str:
    return HOSTILE


@pytest.fixture
def hostile_report() -> Report:
    """A report in which every name that a stranger chooses is an attack."""
    base = build_report().result
    level = base.levels[0].model_copy(
        update={
            "layers": (Layer(name=HOSTILE, kind=HOSTILE, unstable=0, active=0, inactive=1),),
            "unfinished": (
                Unfinished(
                    index=3, why="domains", domains=64, depth=7, bound=-0.1, charge=1e-3, layer=HOSTILE, share=0.5
                ),
            ),
        }
    )
    return build_report(
        model=base.model.model_copy(update={"file": HOSTILE, "ops": {HOSTILE: 3}, "metadata": {HOSTILE: HOSTILE}}),
        data=base.data.model_copy(update={"uri": HOSTILE, "class_names": (HOSTILE,) * 10, "notes": (HOSTILE,)}),
        warnings=(Caution(message=HOSTILE),),
        levels=(level,),
    )
