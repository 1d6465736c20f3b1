"""What a report is held to: floors under it, drops below an earlier report on the same samples, parity; decided exactly.

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
