"""What a training step costs on the device at hand: in time beside the natural step, and in memory.

    python scripts/bench_train.py [AUTO_LIRPA] [--batch 32] [--threads 1] [--rounds 9] [--no-compile]
    python scripts/bench_train.py --quick [--batch 128] [--rounds 100] [--graph] [--profile]
    python scripts/bench_train.py --host [--rounds 300]

CNN-7 (models/cnn7.py, 3x32x32, random data), forward, backward, clipping and fused Adam; ours are the steps of ``shi2021`` and
``fast`` with both regularisers, half way up the ramp. On a CPU: process time, all variants by turns in one process, medians of
``--rounds`` and quartiles of the ratio to the natural step; the peak of a process that trains at batch 96, of a process each.
AUTO_LIRPA is a checkout of its source (torch 2.8; an environment of its own): its step is that of ``shi2021``, from the same
weights. On a GPU: seconds an epoch of 50,000 images, and seconds to evaluate and certify 10,000 by IBP. ``--quick`` takes a
minute: wall milliseconds of a step of ``shi2021`` on the device, eager and compiled, how long the host is busy with it, and the
peak of the device's memory, with ``--graph`` of steps launched as one graph; ``--profile`` adds the kernels that take most time.
``--host``: a net so small that a step is the host's time alone, on the CPU; and what of it is left outside the graph.
What it found, and where: docs/results.md.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, fx, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.cnn7 import CNN7  # noqa: E402
from pipeline.bounds.margins import MarginBounds  # noqa: E402
from pipeline.core.network import Network, Port, Provenance, Weight  # noqa: E402
from pipeline.core.outward import Outward  # noqa: E402
from pipeline.core.rounding import EXACT, Rounding  # noqa: E402
from pipeline.core.threat import LinfBall  # noqa: E402
from pipeline.data import Augment, Loader  # noqa: E402
from pipeline.system.allocator import keep_large_blocks  # noqa: E402
from pipeline.train import insert, recipe  # noqa: E402
from pipeline.train.execution import PRECISIONS, Execution  # noqa: E402
from pipeline.train.initialise import reinitialise_  # noqa: E402
from pipeline.train.step import Trainer  # noqa: E402

Step = Callable[[Tensor, Tensor], object]
SHAPE, EPS, IMAGES, MEMORY_BATCH = (3, 32, 32), Fraction(8, 255), 50_000, 96
ON_THE_RAMP, BEHIND_IT = 41, 120
"""Epochs of the recipe: with both regularisers, and without."""
EAGER = Execution()
COMPILED = {"execution": Execution(compiled=True)}
LOW = {"execution": Execution("bf16", channels_last=True)}
LOW_COMPILED = {"execution": Execution("bf16", compiled=True, channels_last=True)}
CPU: dict[str, dict[str, Any]] = {
    "shi2021": {},
    "shi2021, behind the warmup": {"epoch": BEHIND_IT},
    "shi2021, bf16, channels last": LOW,
    "shi2021, compiled": COMPILED,
    "shi2021, bf16, channels last, compiled": LOW_COMPILED,
    "shi2021, in micro-batches of 8": {"micro_batch": 8},
    "fast": {"name": "fast"},
    "fast, compiled": {"name": "fast"} | COMPILED,
    "fast, bf16, channels last, compiled": {"name": "fast"} | LOW_COMPILED,
}
"""What each variant asks of ``run``."""


def network(kind: Callable[[], nn.Sequential] = lambda: CNN7(bn=False), shape: tuple[int, ...] = SHAPE) -> Network:
    """A net without BatchNorm, as an untrained file would give it."""
    torch.manual_seed(0)
    graph = fx.symbolic_trace(nn.Sequential(OrderedDict((f"n{i}", layer) for i, layer in enumerate(kind()))))
    ports = (Port("x", torch.float32, (None, *shape)),), (Port("y", torch.float32, (None, 10)),)
    return Network(graph, *ports, Provenance(weights={name: Weight(name) for name, _ in graph.named_parameters()}))


def run(
    batch: int,
    *,
    name: str = "shi2021",
    execution: Execution = EAGER,
    epoch: int = ON_THE_RAMP,
    device: str = "cpu",
    given: Network | None = None,
    **settings: Any,
) -> Trainer:
    model = insert(given or network())
    reinitialise_(model, ibp=True, generator=torch.Generator().manual_seed(0))
    made = recipe(name, input_shape=SHAPE, n_train=IMAGES, batch_size=batch, **settings)
    one = Trainer(model.to(device), IMAGES // batch, made, EPS, 0.0, 1.0, execution=execution)
    one.begin(epoch)
    return one


def ours(batch: int, **variant: Any) -> Step:
    one = run(batch, **variant)
    return lambda x, y: one.step(0, x, y)


def optimised(parameters: list[nn.Parameter]) -> Callable[[Tensor], None]:
    """What every step ends with."""
    adam = torch.optim.Adam(parameters, 5e-4, fused=True)

    def update(loss: Tensor) -> None:
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        adam.step()

    return update


def natural() -> Step:
    model = plain()
    update = optimised(list(model.parameters()))
    return lambda x, y: update(F.cross_entropy(model(x), y))


def plain() -> CNN7:
    """The torch module with the weights that ours starts from."""
    model, start = CNN7().train(), run(1).model
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), start.parameters(), strict=True):
            mine.copy_(theirs)
    return model


def lirpa(batch: int) -> Step:
    """The same loss by auto_LiRPA, as the paper's authors compute it: ends instead of centers, a row of margins a sample."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
    from auto_LiRPA.bound_ops import BoundRelu

    settings = run(batch)
    eps, weight, tau = settings.eps[0], settings.weights[0], settings.recipe.tau
    model = BoundedModule(plain(), torch.zeros(2, *SHAPE), bound_opts={"verbosity": 0}, device="cpu")
    model.train()
    update, eye = optimised(list(model.parameters())), torch.eye(10)
    relus = [m for m in model._modules.values() if isinstance(m, BoundRelu)]

    def step(x: Tensor, y: Tensor) -> Tensor:
        others = y[:, None] != torch.arange(10)
        rows = (eye[y][:, None] - eye[None])[others].view(len(x), 9, 10)
        model(x)
        low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
        around = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high))
        margins, _ = model.compute_bounds(x=(around,), C=rows, method="IBP", bound_upper=False)
        robust = F.cross_entropy(torch.cat((torch.zeros(len(x), 1), -margins), 1), torch.zeros_like(y))
        reference, terms = ((high - low) / 2).mean(), []
        for relu in relus:
            lower, upper = relu.inputs[0].interval
            center, radius = (upper + lower) / 2, (upper - lower) / 2
            terms.append(F.relu(tau - reference / radius.mean().clamp(min=1e-12)) / tau)
            on, off, spread = (lower > 0).float(), (upper < 0).float(), (center - center.mean()) ** 2
            ratios = (center * on).mean() / -(center * off).mean(), (spread * on).sum() / (spread * off).sum()
            balance = sum(F.relu(tau - torch.min(q, 1 / q.clamp(min=1e-12))) / tau for q in ratios)
            if not (torch.isnan(balance) or torch.isinf(balance)):
                terms.append(balance)
        loss = robust + weight * torch.stack(terms).sum() / len(relus)
        update(loss)
        return loss.detach()

    return step


def data(batch: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, *SHAPE, generator=generator)
    return x.to(device), torch.randint(0, 10, (batch,), generator=generator).to(device)


@click.command()
@click.argument("checkout", type=click.Path(path_type=Path), required=False)
@click.option("--batch", default=32)
@click.option("--threads", default=1)
@click.option("--rounds", default=9)
@click.option("--compile/--no-compile", "compiled", default=True)
@click.option("--quick", is_flag=True, help="A step of shi2021 alone, in wall time.")
@click.option("--host", "of_host", is_flag=True, help="The host's time of a step, with a tiny net.")
@click.option("--graph", is_flag=True, help="With --quick: each step launched as one graph.")
@click.option("--profile", is_flag=True, help="With --quick: the kernels that take most of the time.")
@click.option("--measure", hidden=True, help="Peak memory of one variant, for the parent process.")
def main(
    checkout: Path | None,
    batch: int,
    threads: int,
    rounds: int,
    compiled: bool,
    quick: bool,
    of_host: bool,
    graph: bool,
    profile: bool,
    measure: str | None,
) -> None:
    torch.set_num_threads(threads)
    if of_host:
        for line in host(rounds, compiled):
            click.echo(line)
        return
    if quick:
        for told in quickly(batch, rounds, compiled, profile, graph):
            click.echo(json.dumps(told) if isinstance(told, dict) else told)
        return
    kept = keep_large_blocks()
    if checkout is not None and not (checkout / "auto_LiRPA").is_dir():
        raise click.UsageError(f"no auto_LiRPA in {checkout}")
    if checkout is not None:
        sys.path.insert(0, str(checkout))
    chosen = {name: how for name, how in CPU.items() if compiled or not how.get("execution", EAGER).compiled}
    if measure:
        click.echo(json.dumps(peak(measure)))
        return
    click.echo(f"torch {torch.__version__}, {threads} threads, large blocks {'kept' if kept else 'given back'}\n")
    if torch.cuda.is_available():
        gpu(rounds, compiled)
        return
    variants = {"natural": natural()} | {name: ours(batch, **how) for name, how in chosen.items()}
    if checkout is not None:
        variants["auto_LiRPA"] = lirpa(batch)
        mine, theirs = run(batch), lirpa(batch)
        mine.step(0, *data(batch))
        click.echo(
            f"loss of the first batch: ours {float(mine.totals[0]):.7g}, theirs {float(theirs(*data(batch))):.7g}\n"
        )
    headings = f"step, batch {batch} | ms | ratio to natural | quartiles | process peak at batch {MEMORY_BATCH}, MiB"
    click.echo(f"| {headings} |\n|---|---|---|---|---|")
    found = by_turns(variants, data(batch), rounds)
    for name, spent in found.items():
        ratios = [a / b for a, b in zip(spent, found["natural"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells = (name, f"{1000 * statistics.median(spent):.0f}", f"{middle:.2f}", f"{low:.2f} – {high:.2f}")
        click.echo(f"| {' | '.join(cells)} | {in_a_process_of_its_own(name):.0f} |")


def by_turns(variants: dict[str, Step], batch: tuple[Tensor, Tensor], rounds: int) -> dict[str, list[float]]:
    """Seconds of process time of each step; two steps of each are taken first, and not counted."""
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + 2):
        for name, step in variants.items():
            began = time.process_time()
            step(*batch)
            if i >= 2:
                spent[name].append(time.process_time() - began)
    return spent


def peak(name: str) -> float:
    """The high-water mark of this process in MiB, after four steps of a variant."""
    if name == "natural":
        step = natural()
    elif name == "auto_LiRPA":
        step = lirpa(MEMORY_BATCH)
    else:
        step = ours(MEMORY_BATCH, **CPU[name])
    batch = data(MEMORY_BATCH)
    for _ in range(4):
        step(*batch)
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_a_process_of_its_own(name: str) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", name]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def quickly(
    batch: int, steps: int, compiled: bool, profile: bool = False, graph: bool = False
) -> Iterator[dict[str, Any] | str]:
    """What a step takes in each way, one after the other; a way that fails says why."""
    gpu = torch.cuda.is_available()
    device, low = ("cuda", "tf32") if gpu else ("cpu", "fp32")
    ways = {"eager": Execution(low, channels_last=gpu)}
    if compiled:
        ways |= {"compiled": Execution(low, True, channels_last=gpu), "compiled bf16": Execution("bf16", True, True)}
    if graph:
        ways = {f"{name}, one graph": replace(way, graph=True) for name, way in ways.items()}
    yield {"device": torch.cuda.get_device_name() if gpu else device, "torch": torch.__version__, "batch": batch}
    for name, execution in ways.items():
        try:
            yield from timed(name, execution, batch, steps if execution.compiled else steps // 3 + 1, device, profile)
        except Exception as error:  # every part of the compiler has errors of its own
            yield {"name": name, "error": f"{type(error).__name__}: {error}"[:1500]}


def timed(
    name: str, execution: Execution, batch: int, steps: int, device: str, profile: bool
) -> Iterator[dict[str, Any] | str]:
    gpu, counters = device == "cuda", torch._dynamo.utils.counters
    wait = torch.cuda.synchronize if gpu else lambda: None
    torch._dynamo.reset()
    counters.clear()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    one, (x, y) = run(batch, execution=execution, device=device), data(batch, device)
    for i in range(6):
        one.step(i, x, y)
    wait()
    first, began = time.monotonic() - began, time.monotonic()
    for i in range(steps):
        one.step(6 + i, x, y)
    host = time.monotonic() - began
    wait()
    spent = time.monotonic() - began
    told = {"name": name, "ms": round(1000 * spent / steps, 3), "host_ms": round(1000 * host / steps, 3)}
    told |= {"ready_s": round(first, 1), "graphs": counters["stats"]["unique_graphs"]}
    if gpu:
        told["peak_MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
        told["cudagraph_skips"] = counters["inductor"]["cudagraph_skips"]
    yield told
    if profile:
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CUDA if gpu else activity.CPU]) as found:
            for i in range(10):
                one.step(i, x, y)
            wait()
        yield found.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=40, max_name_column_width=90)


def tiny() -> nn.Sequential:
    """Four layers on images of 8x8, of which no kernel takes any time."""
    layers = (nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))


def host(rounds: int, compiled: bool) -> Iterator[str]:
    """Wall milliseconds of a step of a tiny net, all ways by turns, and of the part of it that no graph would hold."""
    yield "| step of a tiny net, batch 4 | ms | ms outside the graph |\n|---|---|---|"
    x, y = torch.rand(4, 1, 8, 8), torch.randint(0, 10, (4,))
    ways = [(c, g) for c in (False, True)[: 1 + compiled] for g in (False, True)]
    spent: dict[str, tuple[list[float], list[float]]] = {}
    runs = {}
    for name, (whole, graph) in itertools.product(("shi2021", "fast"), ways):
        execution = Execution(compiled=whole, graph=graph)
        label = f"{name}, {'compiled' if whole else 'eager'}{', one graph' if graph else ''}"
        # Behind the ramp, where ``fast`` moves its mean of weights.
        runs[label] = run(4, name=name, execution=execution, given=network(tiny, (1, 8, 8)), epoch=BEHIND_IT)
        spent[label] = [], []
        if (captured := runs[label].captured) is not None:
            captured.launch = watched(captured.launch, spent[label][1])  # type: ignore[method-assign]
    for i in range(rounds):
        for label, one in runs.items():
            began = time.perf_counter()
            one.step(i, x, y)
            spent[label][0].append(time.perf_counter() - began)
    for label, (whole_steps, launched) in spent.items():
        outside = [a - b for a, b in zip(whole_steps, launched, strict=True)][20:] if launched else []
        cells = [f"{1000 * statistics.median(times):.3f}" if times else "" for times in (whole_steps[20:], outside)]
        yield f"| {label} | {' | '.join(cells)} |"


def watched(function: Callable[[], None], times: list[float]) -> Callable[[], None]:
    def call() -> None:
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)

    return call


def gpu(rounds: int, compiled: bool) -> None:
    """Seconds an epoch with every precision, augmentation included, and seconds to certify."""
    headings = "recipe | batch | precision | compiled | s an epoch"
    click.echo(f"{torch.cuda.get_device_name()}\n\n| {headings} |\n|---|---|---|---|---|")
    images, labels = data(IMAGES, "cuda")
    fused = (False, True) if compiled else (False,)
    for name, batch, precision, whole in itertools.product(("shi2021", "fast"), (128, 256), PRECISIONS, fused):
        loader = Loader(images, labels, batch_size=batch, seed=0, augment=Augment(crop=2, flip=True), device="cuda")
        one = run(batch, name=name, execution=Execution(precision, compiled=whole, channels_last=True), device="cuda")
        seconds = statistics.median(epochs(one, loader, rounds))
        click.echo(f"| {name} | {batch} | {precision} | {'yes' if whole else 'no'} | {seconds:.2f} |")
    click.echo("\n| 10,000 images evaluated and certified by IBP | s |\n|---|---|")
    single = run(128, device="cuda").model.eval()
    for name, model, rounding in (
        ("float32, no promise", single, EXACT),
        ("float64, float32-any-order", single.in_float64(), Outward(deployed=True)),
    ):
        click.echo(
            f"| {name} | {statistics.median(certified(model, rounding, images[:10_000], labels[:10_000])):.2f} |"
        )


def epochs(one: Trainer, loader: Loader, rounds: int) -> list[float]:
    """Wall seconds of whole epochs; the first warms up, and is not counted."""
    found = []
    for epoch in range(min(rounds, 3) + 1):
        torch.cuda.synchronize()
        began = time.monotonic()
        for i, (x, y) in enumerate(loader.epoch(epoch)):
            one.step(i, x, y)
        torch.cuda.synchronize()
        found.append(time.monotonic() - began)
    return found[1:]


@torch.no_grad()
def certified(model: Network, rounding: Rounding, images: Tensor, labels: Tensor) -> list[float]:
    bounds, found = MarginBounds(model, rounding, fixed=True), []
    images = images.to(next(model.parameters()).dtype)
    for _ in range(4):
        torch.cuda.synchronize()
        began = time.monotonic()
        count = torch.zeros(2, device="cuda")
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            count[0] += (model(x).argmax(1) == y).sum()
            count[1] += (bounds.least(LinfBall(EPS).box(x), y) > 0).sum()
        count.tolist()
        found.append(time.monotonic() - began)
    return found[1:]


if __name__ == "__main__":
    main()
