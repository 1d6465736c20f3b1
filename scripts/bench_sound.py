"""What the promise of float32 in any order costs: time, width of boxes, and certificates.

    python scripts/bench_sound.py RETRAINED.onnx [--rounds 9] [--samples 360] [--eps 8/255,0.1]

RETRAINED.onnx is what ``pipeline retrain models/digits.onnx --data digits --eps 0.1`` wrote. IBP in mode `none` and in
`float32-any-order`, both in float64, by turns in one process: the median of the ratios of process time, and their quartiles.
Inflation is the mean over the logits' boxes of the ratio of radii, less one. Aims: time <= 2, inflation at 8/255 < 1 %, at
most 0.2 points of certified accuracy lost. CNN-7 has random weights by the paper's initialisation, and its input is noise.
"""

from __future__ import annotations

import statistics
import sys
import time
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.bounds.ibp import IntervalWalk  # noqa: E402
from pipeline.bounds.margins import MarginBounds  # noqa: E402
from pipeline.core.network import Network  # noqa: E402
from pipeline.core.rounding import rounding_of  # noqa: E402
from pipeline.core.threat import Box, LinfBall  # noqa: E402
from pipeline.data import fit, load  # noqa: E402
from pipeline.numbers import parse_eps  # noqa: E402
from pipeline.onnx import importer, model_file  # noqa: E402

MODES = ("none", "float32-any-order")


def cnn7() -> Network:
    """CNN-7 of the paper, its weights drawn so that boxes do not explode."""
    from models.cnn7 import CNN7

    torch.manual_seed(0)
    net = CNN7().eval()
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.normal_(m.weight, std=(2 * torch.pi) ** 0.5 / m.weight[0].numel())
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "net.onnx")
        batch = {"input": {0: "n"}}
        torch.onnx.export(
            net, (torch.zeros(2, 3, 32, 32),), path, dynamo=False, dynamic_axes=batch, input_names=["input"]
        )
        return importer.load(model_file.read(path)).network


def compare(name: str, network: Network, x: Tensor, labels: Tensor, eps: Fraction, rounds: int) -> None:
    """One line of the table."""
    box = LinfBall(eps).box(x)
    walks = [IntervalWalk(network, rounding_of(mode)) for mode in MODES]
    bounds = [MarginBounds(network, rounding_of(mode)) for mode in MODES]
    ratios, seconds = [], []
    for i in range(rounds + 1):
        spent = []
        for b in bounds if i % 2 else bounds[::-1]:
            began = time.process_time()
            b.least(Box(box), labels)
            spent.append(time.process_time() - began)
        plain, sound = spent if i % 2 else spent[::-1]
        if i:  # the first round warms up
            ratios.append(sound / plain)
            seconds.append(plain)
    with torch.no_grad():
        plain_radius, sound_radius = (walk.boxes([box])[-1].radius for walk in walks)
    inflation = float((sound_radius / plain_radius).mean()) - 1
    right = network(x).flatten(1).argmax(1) == labels
    certified = [float(((b.least(Box(box), labels) > 0) & right).double().mean()) for b in bounds]
    low, middle, high = statistics.quantiles(ratios, n=4)
    click.echo(
        f"{name:<8} eps {eps!s:<7} batch {len(x):<4} plain {statistics.median(seconds):7.3f} s   ratio {middle:.2f} "
        f"[{low:.2f}, {high:.2f}]   inflation {100 * inflation:.4f} %   certified {100 * certified[0]:.2f} % -> "
        f"{100 * certified[1]:.2f} %"
    )


@click.command()
@click.argument("retrained", type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=9, show_default=True)
@click.option("--samples", default=360, show_default=True)
@click.option("--eps", default="1/255,8/255,0.1", show_default=True)
def main(retrained: Path, rounds: int, samples: int, eps: str) -> None:
    torch.set_num_threads(1)
    click.echo(f"torch {torch.__version__}, {torch.get_num_threads()} thread, seed 0, {rounds} rounds")
    test = load("digits", part="test").take(np.arange(samples))
    digits = importer.load(model_file.read(retrained)).network.in_float64()
    shape = tuple(d for d in digits.inputs[0].shape[1:] if d is not None)
    fitted = fit(test, input_shape=shape, classes=10, layout=None, value_range=None, label_offset=0)
    x, labels = torch.from_numpy(fitted.images).double(), torch.from_numpy(fitted.labels)
    random = cnn7().in_float64()
    noise = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guess = random(noise).argmax(1)
    for radius in map(parse_eps, eps.split(",")):
        compare("digits", digits, x, labels, radius, rounds)
        compare("CNN-7", random, noise, guess, radius, rounds)


if __name__ == "__main__":
    main()
