"""How the time and the memory of `pipeline certify` grow with samples, width, depth, classes and the size of the file.

    python scripts/bench_scaling.py [samples width depth classes size] [--threads 1]

Every cell is one command in a process of its own, on a network of random weights and random images with the labels that the
file gives them; seconds are those of the rung itself, divided by the samples it examined, memory is the peak of the process. No
attack but where the number of samples grows. What it attained, where: docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.small_cnn import SmallCNN  # noqa: E402
from scripts.export_models import export  # noqa: E402

SHAPE = (1, 28, 28)
EPS = "1/20"
"""Far more than a network of random weights allows: every rung has every sample to do."""


@dataclass(frozen=True)
class Cell:
    """One network, so many samples, the last method of the ladder."""

    label: str
    net: nn.Module
    samples: int
    method: str
    classes: int = 10
    more: tuple[str, ...] = ("--no-attack",)


def mlp(width: int, depth: int, classes: int = 10) -> nn.Module:
    """``depth`` hidden layers of ``width``."""
    sizes = [784, *[width] * depth]
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


def cells(axis: str) -> Iterator[Cell]:
    """What is measured along one axis."""
    if axis == "samples":
        for n in (1_000, 10_000, 100_000):
            yield Cell(f"{n:,}", SmallCNN(), n, "ibp", more=("--restarts", "1", "--attack-steps", "2"))
    if axis == "width":
        for width in (128, 512, 2048):
            for method in ("ibp", "crown-ibp", "crown"):
                yield Cell(f"{width}", mlp(width, 3), 8 if method == "crown" else 64, method)
    if axis == "depth":
        for depth in (2, 8, 32):
            for method in ("ibp", "crown-ibp", "crown"):
                yield Cell(f"{depth}", mlp(128, depth), 8 if method == "crown" else 64, method)
    if axis == "classes":
        for classes in (10, 100, 1000):
            for method in ("ibp", "crown-ibp", "crown"):
                yield Cell(f"{classes}", mlp(256, 2, classes), 16, method, classes)
    if axis == "size":
        for width in (1000, 4600):
            megabytes = sum(p.numel() for p in mlp(width, 2).parameters()) * 4 / 1e6
            yield Cell(f"{megabytes:.0f} MB", mlp(width, 2), 256, "crown-ibp")


def measure(cell: Cell, threads: int) -> str:
    """The row of one cell."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        export(cell.net, SHAPE, place / "net.onnx")
        images = np.random.default_rng(0).integers(0, 256, (cell.samples, *SHAPE), np.uint8)
        with torch.no_grad():
            parts = [
                cell.net(torch.from_numpy(x).float() / 255).argmax(1) for x in np.array_split(images, len(images) // 8)
            ]
        np.savez(place / "data.npz", x=images, y=torch.cat(parts).numpy())
        argv = ["--data", "npz:data.npz", "--eps", EPS, "--method", cell.method, *cell.more, "--format", "json"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "certify", "net.onnx", *argv],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        told = json.loads(process.stdout.read())
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    level, run = told["result"]["levels"][-1], told["run"]
    examined = next(rung["examined"] for rung in level["rungs"] if rung["name"] == cell.method)
    each = f"{1e3 * run['timings'][f'{cell.method}@{EPS}'] / examined:.2f}" if examined else "–"
    cells = [cell.label, cell.method, cell.samples, each, f"{used.ru_maxrss / 1024:.0f}", f"{run['seconds']:.1f}"]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", default=["samples", "width", "depth", "classes", "size"])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    for axis in given.axes:
        print(f"\n| {axis} | method | samples | ms a sample | peak, MiB | seconds in all |\n|---|---|---|---|---|---|")
        for cell in cells(axis):
            torch.manual_seed(0)
            print(measure(cell, given.threads), flush=True)


if __name__ == "__main__":
    main()
