"""The result type: its laws, its schema, the counts that follow from verdicts per sample, and its files.

samples = Samples(eps=("8/255",), index=..., label=..., predicted=..., verdict=..., margin_lower=..., survived=...)
report = Report.of("certification", Result(levels=levels(samples), per_class=per_class(samples), ...), run)
write(report, samples, Path("model.report"), page=render(report))
"""

from __future__ import annotations

from pipeline.methods import DECIDERS
from pipeline.results.chance import caution as near_chance
from pipeline.results.facts import (
    Attack,
    Caution,
    Data,
    FileDigest,
    Input,
    InputUse,
    Method,
    Model,
    Output,
    Parity,
    Preprocessing,
    RuntimeExecution,
    Selection,
    Tool,
    Unfinished,
)
from pipeline.results.outcome import Baseline, GateOutcome
from pipeline.results.per_radius import ClassRow, Layer, Level, Margin, RoundingCost, Rung, Verdicts
from pipeline.results.rate import Rate
from pipeline.results.result import Accuracies, LargestEps, Proofs, Report, Result, Run, SamplesFile, Training, schema
from pipeline.results.samples import (
    Counterexamples,
    Samples,
    Verdict,
    read_samples,
)
from pipeline.results.shard import RunGates, Shard
from pipeline.results.summarise import LevelDetails, largest_eps, levels, per_class
from pipeline.results.text import clean, quoted
from pipeline.results.threat import Features, Threat
from pipeline.results.write import dump, read, write

__all__ = [
    "DECIDERS",
    "Accuracies",
    "Attack",
    "Baseline",
    "Caution",
    "ClassRow",
    "Counterexamples",
    "Data",
    "Features",
    "FileDigest",
    "GateOutcome",
    "Input",
    "InputUse",
    "LargestEps",
    "Layer",
    "Level",
    "LevelDetails",
    "Margin",
    "Method",
    "Model",
    "Output",
    "Parity",
    "Preprocessing",
    "Proofs",
    "Rate",
    "Report",
    "Result",
    "RoundingCost",
    "Run",
    "RunGates",
    "Rung",
    "RuntimeExecution",
    "Samples",
    "SamplesFile",
    "Selection",
    "Shard",
    "Threat",
    "Tool",
    "Training",
    "Unfinished",
    "Verdict",
    "Verdicts",
    "clean",
    "dump",
    "largest_eps",
    "levels",
    "near_chance",
    "per_class",
    "quoted",
    "read",
    "read_samples",
    "schema",
    "write",
]
