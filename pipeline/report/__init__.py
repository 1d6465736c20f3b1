"""What was found, in one type, and how it is judged, kept and shown.

samples = Samples(eps=("8/255",), index=..., label=..., predicted=..., verdict=..., margin_lower=..., survived=...)
outcomes = evaluate([parse_gate("certified@8/255=0.30")], levels(samples), per_class(samples))
report = Report.of("certification", Result(levels=levels(samples), gates=outcomes, ...), run)
write(report, samples, Path("model.report"))
"""

from __future__ import annotations

from pipeline.report.advice import headline, next_step
from pipeline.report.comparison import Comparison, compare
from pipeline.report.demands import Demands, share
from pipeline.report.facts import (
    Attack,
    Caution,
    Data,
    FileDigest,
    Input,
    Method,
    Model,
    Output,
    Parity,
    Preprocessing,
    Selection,
    Threat,
    Tool,
)
from pipeline.report.gates import EXIT_CODES, Gate, check_gates, evaluate, parse_gate, verdict
from pipeline.report.html import render
from pipeline.report.intoto import signing, statement
from pipeline.report.junit import junit
from pipeline.report.level import ClassRow, Layer, Level, Margin, RoundingCost, Rung, Verdicts
from pipeline.report.markdown import markdown, prose
from pipeline.report.outcome import Baseline, GateOutcome
from pipeline.report.pairing import Setup
from pipeline.report.rate import Rate
from pipeline.report.regression import Reference, read_reference
from pipeline.report.result import (
    Accuracies,
    LargestEps,
    Report,
    Result,
    Run,
    SamplesFile,
    Training,
    schema,
)
from pipeline.report.samples import (
    CERTIFIED,
    DECIDERS,
    FALSIFIED,
    MISCLASSIFIED,
    UNKNOWN,
    VERDICTS,
    Counterexamples,
    Samples,
    read_samples,
)
from pipeline.report.summarise import Looked, largest_eps, levels, per_class
from pipeline.report.terminal import before_after, panel
from pipeline.report.text import clean
from pipeline.report.write import dump, read, write

__all__ = [
    "CERTIFIED",
    "DECIDERS",
    "EXIT_CODES",
    "FALSIFIED",
    "MISCLASSIFIED",
    "UNKNOWN",
    "VERDICTS",
    "Accuracies",
    "Attack",
    "Baseline",
    "Caution",
    "ClassRow",
    "Comparison",
    "Counterexamples",
    "Data",
    "Demands",
    "FileDigest",
    "Gate",
    "GateOutcome",
    "Input",
    "LargestEps",
    "Layer",
    "Level",
    "Looked",
    "Margin",
    "Method",
    "Model",
    "Output",
    "Parity",
    "Preprocessing",
    "Rate",
    "Reference",
    "Report",
    "Result",
    "RoundingCost",
    "Run",
    "Rung",
    "Samples",
    "SamplesFile",
    "Selection",
    "Setup",
    "Threat",
    "Tool",
    "Training",
    "Verdicts",
    "before_after",
    "check_gates",
    "clean",
    "compare",
    "dump",
    "evaluate",
    "headline",
    "junit",
    "largest_eps",
    "levels",
    "markdown",
    "next_step",
    "panel",
    "parse_gate",
    "per_class",
    "prose",
    "read",
    "read_reference",
    "read_samples",
    "render",
    "schema",
    "share",
    "signing",
    "statement",
    "verdict",
    "write",
]
