"""``python -m tests.fuzz graphs|bytes --seconds N [--seed S]``: fuzz for a while, print what was tried, exit 1 on a finding."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=("graphs", "bytes"))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    run = random_graphs if asked.what == "graphs" else targets.run
    return 0 if run(asked.seconds, asked.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
