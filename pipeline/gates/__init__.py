"""Gates: conditions on a report, decided exactly on counts.

A gate sets a floor under a metric, limits its drop below an earlier report on the same samples, or bounds how far import and
ONNX Runtime may differ::

    outcomes = evaluate([parse_gate("certified@8/255=0.30")], levels(samples), per_class(samples))
    exit_code = EXIT_CODES[verdict(outcomes)]
"""

from __future__ import annotations

from pipeline.gates.demands import Demands, share
from pipeline.gates.gate import EXIT_CODES, Gate, check_gates, evaluate, parse_gate, verdict
from pipeline.gates.pairing import Setup
from pipeline.gates.regression import Reference, read_reference

__all__ = [
    "EXIT_CODES",
    "Demands",
    "Gate",
    "Reference",
    "Setup",
    "check_gates",
    "evaluate",
    "parse_gate",
    "read_reference",
    "share",
    "verdict",
]
