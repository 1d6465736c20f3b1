"""Our bounds beside auto_LiRPA's, in one run: agreement, time, and memory.

    python scripts/bench_lirpa.py AUTO_LIRPA [--corpus FOLDER] [--trained FILE.onnx] [--dtype float32] [--threads 1]

AUTO_LIRPA is a checkout of its source; without one the script says so and skips. It works with torch 2.8 (with newer ones
its alpha-CROWN never moves), so run this in an environment of its own. Bounds are in mode `none`, the same dtype, the same
weights; times are process time, the two tools by turns, medians of ``--rounds``; memory is the peak above the resident model,
each measurement in a process of its own. What it found, and where: docs/results.md.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.bounds.alpha import Search  # noqa: E402
from pipeline.bounds.margins import MarginBounds  # noqa: E402
from pipeline.certify.engine import CHUNK_BYTES  # noqa: E402
from pipeline.certify.prover import IBP_BATCH, LINEAR_BATCH  # noqa: E402
from pipeline.core.interval import Interval  # noqa: E402
from pipeline.core.network import Network  # noqa: E402
from pipeline.core.rounding import EXACT  # noqa: E402
from pipeline.core.threat import Box, clipped_box  # noqa: E402
from pipeline.system.allocator import keep_large_blocks  # noqa: E402

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
THEIRS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN", "alpha-crown": "CROWN-Optimized"}
CASES: dict[str, tuple[float, int, tuple[str, ...]]] = {
    # name: eps, batch, methods
    "cnn7": (0.002, 16, ("ibp", "crown-ibp")),
    "resnext": (0.001, 8, ("ibp", "crown-ibp")),
    "trained": (0.1, 16, METHODS),
    "mnist_fc__mnist-net_256x2": (0.02, 16, METHODS),
    "cifar10_resnet__resnet_2b": (0.002, 2, METHODS),
    "oval21__cifar_base_kw": (0.004, 4, METHODS),
}

HEADINGS = (
    *("net, batch", "method", "scale", "largest difference", "ours looser by at most"),
    *("mean gain", "time ratio", "ours, s", "MiB ours / theirs"),
)
"""Differences are fractions of the scale, the largest absolute margin; a positive gain says that ours is tighter."""


def load(name: str, corpus: Path | None, trained: Path | None, dtype: torch.dtype) -> Network | None:
    """A network by the name of its case, in eval mode; None where its file is not there."""
    from models.cnn7 import CNN7
    from models.resnext import ResNeXt
    from pipeline.onnx import importer, model_file

    torch.set_default_dtype(torch.float32)  # theirs asks for another
    if name in ("cnn7", "resnext"):
        torch.manual_seed(0)
        net = (CNN7() if name == "cnn7" else ResNeXt()).eval()
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):  # the paper's initialisation: bounds do not explode
                fan_in = m.weight[0].numel()
                nn.init.normal_(m.weight, std=(2 * torch.pi) ** 0.5 / fan_in)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            torch.onnx.export(
                net,
                (torch.zeros(2, 3, 32, 32),),
                path,
                dynamo=False,
                dynamic_axes={"input": {0: "n"}},
                input_names=["input"],
            )
            return _cast(importer.load(model_file.read(path)).network, dtype)
    path = trained if name == "trained" else corpus and corpus / "onnx" / f"{name}.onnx"
    return _cast(importer.load(model_file.read(path)).network, dtype) if path and path.exists() else None


def _cast(network: Network, dtype: torch.dtype) -> Network:
    return network.to(dtype).eval()


def ours(
    network: Network, x: Tensor, box: Interval, labels: Tensor, method: str, **options: Any
) -> Callable[[], Tensor]:
    """Rows (classes - 1, batch) of margins by this package, as many samples at once as its commands take."""
    bounds = MarginBounds(network, EXACT, method=method, search=Search(until_proved=False), fixed=True, **options)
    classes, most = network(x[:1]).numel(), IBP_BATCH if method == "ibp" else LINEAR_BATCH
    chunk = bounds.need([Box(box[:1])]).samples(CHUNK_BYTES, classes - 1, most)
    parts = [slice(i, i + chunk) for i in range(0, len(x), chunk)]
    return lambda: torch.cat([bounds.rows(Box(box[part]), labels[part]) for part in parts], dim=1)


def theirs(
    network: Network, x: Tensor, box: Interval, labels: Tensor, method: str, **options: Any
) -> Callable[[], Tensor]:
    """The same by auto_LiRPA."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    torch.set_default_dtype(x.dtype)
    model = BoundedModule(network.graph, x, bound_opts={"verbosity": 0, **options}, device="cpu")
    model.set_bound_opts({"optimize_bound_args": {"iteration": 20, "lr_alpha": 0.5, "early_stop_patience": 1000}})
    norm = PerturbationLpNorm(norm=float("inf"), x_L=box.center - box.radius, x_U=box.center + box.radius)
    x = BoundedTensor(x, norm)
    classes = network.graph(x).flatten(1).shape[1]
    eye = torch.eye(classes, dtype=x.dtype)
    others = torch.tensor([[j for j in range(classes) if j != y] for y in labels.tolist()])
    c = eye[labels][:, None] - eye[others]
    name = THEIRS[method]

    def run() -> Tensor:
        with torch.set_grad_enabled(method == "alpha-crown"):
            lower, _ = model.compute_bounds(x=(x,), C=c, method=name, bound_upper=False)
        return lower.detach().T

    return run


def setting(network: Network, eps: float, batch: int, dtype: torch.dtype) -> tuple[Tensor, Interval, Tensor]:
    torch.manual_seed(1)
    shape = [int(d) for d in network.inputs[0].shape[1:]]
    x = torch.rand(batch, *shape, dtype=dtype)
    with torch.no_grad():
        labels = network(x).flatten(1).argmax(1)
    return x, clipped_box(x, eps), labels


@click.command()
@click.argument("lirpa", type=click.Path(path_type=Path))
@click.option("--corpus", type=click.Path(path_type=Path))
@click.option("--trained", type=click.Path(path_type=Path), help="A retrained classifier.")
@click.option("--dtype", default="float32", type=click.Choice(["float32", "float64"]))
@click.option("--threads", default=1)
@click.option("--rounds", default=5)
@click.option("--only", help="Only this case.")
@click.option("--measure", hidden=True, help="CASE,METHOD,TOOL: peak memory of one run, for the parent process.")
def main(
    lirpa: Path,
    corpus: Path | None,
    trained: Path | None,
    dtype: str,
    threads: int,
    rounds: int,
    only: str | None,
    measure: str | None,
) -> None:
    if not (lirpa / "auto_LiRPA").is_dir():
        click.echo(f"skipped: no auto_LiRPA in {lirpa}")
        return
    sys.path.insert(0, str(lirpa))
    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    if measure:
        name, method, tool = measure.split(",")
        network = load(name, corpus, trained, kind)
        assert network is not None
        run = (ours if tool == "ours" else theirs)(network, *setting(network, *CASES[name][:2], kind), method)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark of the import does not count
        before = resident("VmRSS")
        run()
        click.echo(json.dumps(resident("VmHWM") - before))
        return
    keep_large_blocks()  # both tools gain a fifth by it
    click.echo(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for name, (eps, batch, methods) in CASES.items():
        if (only and only != name) or (network := load(name, corpus, trained, kind)) is None:
            continue
        inputs = setting(network, eps, batch, kind)
        for method in methods:
            row(name, network, inputs, method, rounds, sys.argv[1:])
        if "crown" in methods:
            alike = ours(network, *inputs, "crown", meet=False)()
            other = theirs(network, *inputs, "crown", sparse_intermediate_bounds=False)()
            apart = float((alike - other).abs().max() / other.abs().max())
            click.echo(f"| {name}, {batch} | crown, nothing intersected | | {apart:.1e} |")


def row(
    name: str, network: Network, inputs: tuple[Tensor, Interval, Tensor], method: str, rounds: int, argv: list[str]
) -> None:
    tools = [ours(network, *inputs, method), theirs(network, *inputs, method)]
    found: list[Tensor] = []
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        found = []
        for tool, spent in zip(tools, times, strict=True):
            began = time.process_time()
            found.append(tool())
            spent.append(time.process_time() - began)
    mine, other = found
    scale = float(other.abs().max())
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    memory = [peak(name, method, tool, argv) for tool in ("ours", "theirs")]
    cells = [
        *(f"{name}, {len(inputs[0])}", method, f"{scale:.4g}", f"{float((mine - other).abs().max()) / scale:.1e}"),
        *(f"{float((other - mine).max()) / scale:.1e}", f"{float((mine - other).mean()) / scale:.1e}"),
        *(f"{ratio:.2f}", f"{statistics.median(times[0]):.2f}", f"{memory[0]:.0f} / {memory[1]:.0f}"),
    ]
    click.echo(f"| {' | '.join(cells)} |")


def resident(field: str) -> int:
    """A field of this process's memory, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0])


def peak(name: str, method: str, tool: str, argv: list[str]) -> float:
    """MiB above the resident model, in a process of its own."""
    command = [sys.executable, __file__, *argv, "--measure", f"{name},{method},{tool}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.strip().splitlines()[-1]) / 1024


if __name__ == "__main__":
    main()
