"""Run the conformance suite of VNN-LIB 2.0, `vnnlib-satisfactory`, on this verifier, and print its figures.

    pip install vnnlib-satisfactory
    python scripts/conformance.py [--test NAME] [--timeout 20] [--show]

Cases, what is skipped as not declared, and the judgement are the suite's own. Queries are answered in this process, by what
`pipeline vnnlib verify` calls: starting it 180 times takes longer than all answers. Exit 1 where an answer is wrong.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is loaded

import torch
from vnntest.core import evaluator, generator
from vnntest.core.runner import SolverRunResult
from vnntest.models.test_case import TestCase, Verdict

from pipeline.commands.vnnlib_solver import CAPABILITIES, verify
from pipeline.errors import PipelineError


def answered(case: TestCase, timeout: float) -> SolverRunResult:
    """What is answered to one case; a refusal counts as unknown, as the suite counts it."""
    networks = {name: Path(path) for name, path in (getattr(case, "onnx_paths", None) or {"N": case.onnx_path}).items()}
    answer, said = "unknown", ""
    try:
        for event in verify(Path(case.vnnlib_path), networks, {}, timeout):
            if isinstance(event, tuple):
                answer = event[0]
    except PipelineError as error:
        said = str(error)
    verdict = Verdict.from_str(answer) if answer in ("sat", "unsat") else Verdict.UNKNOWN
    return SolverRunResult(case, verdict, 3 if said else 0, answer, said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", help="one category of the suite alone")
    parser.add_argument("--timeout", type=float, default=20.0)
    parser.add_argument("--show", action="store_true", help="say what was answered wherever a case does not pass")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    declared = {name: set(lines) for name, lines in CAPABILITIES.items()}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        manifest = generator.generate_all_tests(suite="full", node_type=asked.test)
        cases = [
            TestCase.from_manifest_entry(entry, Path(".vnnlib-satisfactory") / "tests" / entry["category"])
            for entry in manifest
        ]
        runnable, skipped = evaluator.partition_by_support(
            cases,
            declared["onnx-operators"],
            declared["multiple-network-theories"],
            declared["hidden-node-theories"],
            declared["multiple-input-output-theories"],
            declared["arithmetic-complexity-theories"],
        )
        began, outcomes, by_category = time.monotonic(), Counter[str](), defaultdict[str, Counter[str]](Counter)
        for case in runnable:
            result = evaluator.evaluate(answered(case, asked.timeout))
            outcomes[result.outcome.value] += 1
            by_category[case.category][result.outcome.value] += 1
            if asked.show and result.outcome != evaluator.Outcome.PASS:
                ran = result.run_result
                print(
                    f"{result.outcome.value:8} {case.id:24} expected {case.expected.value}: {ran.stderr or ran.stdout}",
                    flush=True,
                )
    print(f"{len(cases)} cases, {len(skipped)} skipped as not declared, {time.monotonic() - began:.0f} s")
    for category, counts in sorted(by_category.items()):
        print(f"{category:24} " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    print(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in ("pass", "fail", "suspect", "error")))
    return 1 if outcomes["fail"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
