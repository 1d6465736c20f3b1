"""Options that several commands share, each declared once; what a flag leaves open, ``pipeline.toml`` may settle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.choices import LEVELS, MODES
from pipeline.cli.numbers import REAL, WHOLE, Whole
from pipeline.methods import choices

F = TypeVar("F", bound=Callable[..., Any])

model_argument = click.argument("model", type=click.Path(path_type=Path))


def _apply(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    def wrap(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return wrap


data_options = _apply(
    click.option(
        "--data",
        metavar="URI",
        help="npz:FILE, csv:FILE, parquet:FILE, dir:FOLDER, torchvision:NAME, hf:NAME[?split=..], or digits.",
    ),
    click.option("--mean", metavar="M[,M...]", help="Mean subtracted outside the graph, one a channel."),
    click.option("--std", metavar="S[,S...]", help="Standard deviation divided by outside the graph."),
    click.option("--range", metavar="LOW,HIGH", help="Valid range of a pixel; eps is a fraction of it.  [0,1]"),
    click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Axis order, where shapes leave it open."),
    click.option("--label-offset", type=WHOLE, help="Added to every label, such as -1 for labels from 1."),
    click.option("--download", is_flag=True, default=None, help="Allow torchvision: and hf: data to be downloaded."),
)

threat_options = _apply(
    click.option(
        "--eps",
        metavar="E[,E...]",
        help="Radius as a fraction of the pixel range, such as 8/255; exact. Or curve.",
    ),
)


inputs_options = _apply(
    click.option(
        "--input", metavar="NAME", help="Which of several inputs is perturbed; the data hold the others by name."
    ),
    click.option(
        "--constant",
        "constants",
        multiple=True,
        metavar="NAME=VALUE",
        help="An input that all samples have alike: a number, one for each entry, or npz:FILE; repeatable.",
    ),
)

feature_options = _apply(
    click.option(
        "--scale",
        type=click.Choice(["std", "range"]),
        help="Of tabular data: eps is in standard deviations, or ranges, of each feature. Whole numbers, flags and one-hot "
        "groups stay fixed.",
    ),
    click.option(
        "--scale-data", metavar="URI", help="Training data whose deviations are meant.  [the data's train part]"
    ),
    click.option(
        "--radius",
        metavar="R[,R...]|npz:FILE",
        help="How far eps = 1 moves each feature, in its own units; 0 fixes it.",
    ),
    click.option(
        "--fixed", metavar="NAME,...", help="Features that may not move, by name or number from 0 (also 3-7)."
    ),
    click.option(
        "--movable", metavar="NAME,...", help="Whole numbers, flags or one-hot groups that --scale lets move too."
    ),
)


def time_budget(what: str, then: str) -> Callable[[F], F]:
    """``--time-budget``, in one spelling: what ends when it is spent, and what is then."""
    return click.option("--time-budget", metavar="TIME", help=f"Stop {what} after 90s, 10m or 1h; {then}")


ladder_options = _apply(
    click.option("--norm", type=click.Choice(["linf", "l2"]), help="Of the perturbation.  [linf]"),
    click.option("--largest-eps", is_flag=True, default=None, help="Find each sample's largest certified eps too."),
    time_budget("proving", "the report says what is left."),
)

proof_options = _apply(
    click.option(
        "--method",
        type=click.Choice(choices()),
        help="Climb the ladder of bounds up to this one; auto climbs all, and leaves a rung that decides nothing.  [auto; "
        "behind retrain: ibp]",
    ),
    click.option(
        "--max-domains",
        type=WHOLE,
        metavar="N",
        help="Parts that branch and bound divides a region into at most.  [64 as the last rung of auto, else 1000]",
    ),
    click.option("--memory-budget", metavar="SIZE", help="Beyond the model and its data, such as 800MB or 4GB.  [1GB]"),
    click.option("--arithmetic", type=click.Choice(MODES), help="Whose arithmetic is certified.  [float32-any-order]"),
    click.option("--no-attack", is_flag=True, default=None, help="Skip the attack; attacked accuracy is then absent."),
    click.option("--attack-steps", type=WHOLE, metavar="N", help="Steps of PGD.  [10]"),
    click.option("--restarts", type=WHOLE, metavar="N", help="Random starts of PGD.  [1]"),
    click.option("--max-samples", type=WHOLE, metavar="N", help="Certify N samples drawn by --seed."),
    click.option("--seed", type=WHOLE, metavar="N", help="Of every random choice.  [0]"),
    click.option("--output", metavar="NAME", help="Which output holds the logits, where the file has several."),
    click.option(
        "--threshold",
        type=REAL,
        metavar="T",
        help="Of one number a sample: label 1 above it, else 0.  [0.5 of a probability, 0 of a logit]",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where bounds and training run.  [auto]"),
    click.option("--provider", type=click.Choice(["cpu", "cuda"]), help="Where ONNX Runtime runs the file.  [cpu]"),
    click.option(
        "--runtime-optimization",
        type=click.Choice(LEVELS),
        help="How far ONNX Runtime optimises the graph where the model runs.  [all, its default]",
    ),
)

gate_options = _apply(
    click.option(
        "--fail-under",
        multiple=True,
        metavar="GATE",
        help="Such as certified@8/255=0.30, natural=0.9, class:3:certified=0.2; repeatable. Exit 1 where one fails.",
    ),
    click.option(
        "--gate-on",
        type=click.Choice(["value", "lower-ci"]),
        help="Hold --fail-under against the value, or the lower end of its exact 95 % interval.  [value]",
    ),
    click.option("--baseline", metavar="REPORT", help="An earlier report on the same samples, for --max-regression."),
    click.option(
        "--max-regression",
        multiple=True,
        metavar="METRIC[@EPS]=DROP",
        help="Such as certified@8/255=0.01: exit 1 where it falls further below the baseline; repeatable.",
    ),
    click.option(
        "--significance", metavar="ALPHA", help="A larger drop fails only where McNemar's exact p is at most ALPHA."
    ),
    click.option("--require-parity", metavar="T", help="Exit 1 where import and runtime differ by more, such as 1e-5."),
    click.option("--parity-seed", type=int, metavar="N", help="Compare at the points of an earlier run.  [by chance]"),
    click.option("--report", type=click.Path(path_type=Path), metavar="DIR", help="Where the report goes."),
    click.option(
        "--no-thumbnails",
        is_flag=True,
        default=None,
        help="Leave pictures of samples out of report.html: private data.",
    ),
    click.option(
        "--format", "style", type=click.Choice(["text", "json"]), default="text", help="What standard output gets."
    ),
)


devices_option = click.option(
    "--devices",
    type=Whole(1),
    default=1,
    metavar="N",
    help="Work in N processes, on a GPU each, or on the CPU's cores.  [1]",
)


def flags_of(options: dict[str, Any]) -> dict[str, Any]:
    """Click's parameters as settings: ``--no-attack`` says ``attack=False``, what was not given is left out."""
    flags = {k: v for k, v in options.items() if v is not None and v != ()}
    for name in ("attack", "thumbnails"):
        if flags.pop(f"no_{name}", False):
            flags[name] = False
    return flags
