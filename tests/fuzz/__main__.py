"""``python -m tests.fuzz graphs|bytes|coverage|falsehoods --seconds N [--seed S]``: fuzz for a while, exit 1 on a finding.

Prints what was tried. ``--target report --target samples`` shares the time among these readers alone.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given

from tests.fuzz import targets
from tests.fuzz.graphs import Graph, graphs
from tests.fuzz.sound import Figures, examine


def random_graphs(seconds: float, seed: int) -> bool:
    """Rounds of graphs until the time is over; a failing one is shrunk and printed. Whether all held."""
    figures, end = Figures(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:

        def check(graph: Graph) -> None:
            examine(graph, Path(folder), figures)

        how = hypothesis.settings(
            max_examples=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        while time.monotonic() < end:
            try:
                hypothesis.seed(seed)(how(given(graphs())(check)))()
            except Exception as error:
                print(f"random graphs, seed {seed}: {error!r}\n{error.__notes__}", file=sys.stderr)
                print(figures)
                return False
            seed += 1
    print(figures)
    return True


def guided(seconds: float, seed: int, names: Sequence[str]) -> bool:
    """Each reader under libFuzzer for its share of the time, in a process of its own. Whether nothing was found."""
    if find_spec("atheris") is None:
        print("guided by coverage: left out, since atheris is not installed (the extra [fuzz], on Linux and x86-64)")
        return True
    clean = True
    for name in names:
        share = max(1, round(seconds / len(names)))
        command = [sys.executable, "-m", "tests.fuzz.coverage", name, f"-max_total_time={share}", f"-seed={seed}"]
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if ran.returncode:
            print(f"{name}:\n{ran.stdout[-3000:]}{ran.stderr[-1000:]}", file=sys.stderr)
        before, after = (re.findall(rf"#(\d+)\s+{mark}\s+cov: (\d+)", ran.stderr) for mark in ("INITED", r"\w+"))
        if before:
            print(
                f"{name}: {after[-1][0]} executions, {before[0][1]} places of code reached at first, {after[-1][1]} at last"
            )
        clean &= not ran.returncode
    return clean


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=("graphs", "bytes", "coverage", "falsehoods"))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--target", action="append", choices=targets.TARGETS, help="a reader of files; all, if none is named"
    )
    parser.add_argument(
        "--piece", action="append", default=[], help="a piece or head of suspects; all, if none is named"
    )
    parser.add_argument("--points", type=int, default=2000, help="of each certified box, for falsehoods")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    names = asked.target or tuple(targets.TARGETS)
    if asked.what == "falsehoods":
        from tests.fuzz.falsehoods import search

        print(
            figures := search(
                asked.seconds, asked.seed, Path(".fuzz/falsehoods"), among=asked.piece, points=asked.points
            )
        )
        clean = figures.false == 0
    elif asked.what == "graphs":
        clean = random_graphs(asked.seconds, asked.seed)
    else:
        clean = (targets.run if asked.what == "bytes" else guided)(asked.seconds, asked.seed, names)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
