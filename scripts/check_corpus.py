"""Every property of a corpus by every method without the falsifier, and once with it, against what is known of them.

    PIPELINE_CORPUS=folder python scripts/check_corpus.py --seconds 20 --only acasxu

The folder holds ``index.json`` with models, properties and their known results (VNN-COMP). Prints a Markdown table and exits
1 if anything known to be violated was ever proved, anything known to hold falsified, or anything raised: those are faults.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.commands.events import PropertyDone
from pipeline.commands.properties import decide
from pipeline.errors import PipelineError
from pipeline.methods import METHODS
from pipeline.results.property import PropertyResult

ATTACK = "attack + alpha-crown"
VERDICTS = ("holds", "violated", "unknown", "timeout", "refused", "FAULT")
WRONG = {("sat", "holds"), ("unsat", "violated")}


def properties(root: Path, only: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The model and the entry of every property whose file name contains ``only``."""
    for model in json.loads((root / "index.json").read_text()):
        for entry in model["properties"]:
            if only in entry["vnnlib"]:
                yield root / model["file"], entry


def run(model: Path, vnnlib: Path, column: str, seconds: float, arithmetic: str) -> tuple[str, str]:
    """The verdict of one run, or why it was refused; and by what it was reached, or what stays open."""
    method = list(METHODS)[-1] if column == ATTACK else column
    flags = {"arithmetic": arithmetic, "attack": column == ATTACK, "method": method, "time_budget": seconds}
    try:
        for event in decide(model, vnnlib, flags, keep=False):
            if isinstance(event, PropertyDone):
                result = event.report.result
                return result.verdict, how(result)
    except PipelineError as error:
        lines = str(error).splitlines()
        return f"refused: {lines[1].strip() if len(lines) > 2 else lines[0][:90]}", ""
    except Exception as error:  # the other properties must still be run
        return f"FAULT: {type(error).__name__}: {str(error)[:60]}", ""
    raise AssertionError("a run ends with PropertyDone")


def how(result: PropertyResult) -> str:
    """What decided a property, or how many boxes and parts were bounded, to which least bound."""
    if result.decided_by is not None:
        return f" ({result.decided_by}; {result.boxes_bounded} bounded)"
    if result.unfinished is None:
        return f" ({result.boxes_open} of {result.boxes_bounded} bounded boxes open)"
    left = result.unfinished
    bound = "" if left.bound is None else f", least bound {left.bound:.3g}"
    return f" ({left.why}: {left.domains} parts, {left.depth} deep{bound})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path(os.environ.get("PIPELINE_CORPUS", "")))
    parser.add_argument("--seconds", type=float, default=20, help="for each run")
    parser.add_argument("--only", default="", help="part of the name of a property's file")
    parser.add_argument("--columns", default=",".join((*METHODS, ATTACK)), help="some of the columns")
    parser.add_argument("--arithmetic", default="float32-any-order")
    parser.add_argument("--cpu", action="store_true", help="budgets and times by the CPU time of this process")
    args = parser.parse_args()
    if args.cpu:  # the clock of every budget, so that a busy machine decides nothing
        time.monotonic = time.process_time
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    columns = args.columns.split(",")
    budget = f"{args.seconds:g} {'CPU s' if args.cpu else 's'} a run"
    print(f"Arithmetic {args.arithmetic}, {budget}, {torch.get_num_threads()} thread(s).\n")
    print("| property | known |", " | ".join(columns), "|", flush=True)
    print("|---" * (2 + len(columns)) + "|")
    counts: Counter[tuple[str, str, str]] = Counter()
    for model, entry in properties(args.corpus, args.only):
        cells, refused = [], ""
        for column in columns:
            began = time.monotonic()
            # What one method cannot bound, none can; a counterexample may still be found.
            again, path = refused and column != ATTACK, args.corpus / entry["vnnlib"]
            verdict, by = (refused, "") if again else run(model, path, column, args.seconds, args.arithmetic)
            refused = verdict if verdict.startswith("refused") else ""
            counts[entry["result"], column, verdict.partition(":")[0]] += 1
            cells.append("same" if again else f"{verdict} {time.monotonic() - began:.1f}{by}")
            if (entry["result"], verdict) in WRONG:
                cells[-1] = f"**WRONG: {cells[-1]}**"
        name = Path(entry["vnnlib"]).name.partition(".vnnlib")[0]
        print(f"| {name} | {entry['result']} |", " | ".join(cells), "|", flush=True)
    print("\n| known | method |", " | ".join(VERDICTS), "|\n" + "|---" * (2 + len(VERDICTS)) + "|")
    for known in ("sat", "unsat", "unknown"):
        for column in columns:
            row = [counts[known, column, v] for v in VERDICTS]
            print(f"| {known} | {column} |", " | ".join(map(str, row)), "|")
    faults = any(verdict == "FAULT" for _, _, verdict in counts)
    return int(faults or any(counts[known, column, verdict] for known, verdict in WRONG for column in columns))


if __name__ == "__main__":
    sys.exit(main())
