"""``pipeline retrain``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.numbers import REAL, WHOLE
from pipeline.cli.options import (
    data_options,
    devices_option,
    flags_of,
    gate_options,
    model_argument,
    proof_options,
    threat_options,
    time_budget,
)
from pipeline.cli.status import Ending

RECIPE = (
    "recipe",
    "epochs",
    "batch_size",
    "learning_rate",
    "warmup_start",
    "warmup_length",
    "reg_weight",
    "init",
    "bn",
    "crop",
    "flip",
    "ibp_init",
    "full_bn",
    "tightness",
    "balance",
    "held_out",
    "select",
    "optimiser",
    "weight_decay",
    "l1",
    "ema",
    "population_bn",
    "loss",
    "alpha",
    "natural_start",
    "natural_end",
    "adversary_steps",
    "adversary_step",
    "micro_batch",
    "keep_sparsity",
)


@click.command("retrain")
@model_argument
@data_options
@click.option("--test-data", metavar="URI", help="Certify on this; else the data's test part, else a tenth set aside.")
@threat_options
@click.option(
    "--before-samples",
    type=WHOLE,
    metavar="N",
    help="Certify the given file on N samples drawn by seed, to compare with.  [those of the new one]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="The new file.  [MODEL's name.certified.onnx]"
)
@click.option(
    "--force", is_flag=True, help="Overwrite --out, and start anew where another configuration left a checkpoint."
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="shi2021: the paper's; fast: ours, longer steps and a share of an attack's loss; mtl-ibp; vanilla-ibp, crown-ibp, "
    "pgd: baselines without the paper's ideas.  [fast]",
)
@click.option(
    "--write-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write every setting of the recipe to FILE, to be edited and read back as pipeline.toml, and train nothing.",
)
@time_budget("training", "a checkpoint is left (exit 75), and the same command goes on.")
@click.option("--epochs", type=WHOLE, metavar="N", help="The ramp of eps and the decays keep their share of the run.")
@click.option("--batch-size", type=WHOLE, metavar="N")
@click.option("--learning-rate", type=REAL, metavar="LR")
@click.option("--warmup-start", type=WHOLE, metavar="EPOCH", help="The epoch in which eps leaves zero.")
@click.option("--warmup-length", type=WHOLE, metavar="EPOCHS", help="Epochs in which eps grows to its full value.")
@click.option(
    "--init", type=click.Choice(["reinit", "keep"]), help="Draw weights anew, or start from the given.  [reinit]"
)
@click.option(
    "--bn", type=click.Choice(["fold", "keep"]), help="Fold inserted BatchNorms, or keep them as nodes.  [fold]"
)
@click.option(
    "--ibp-init/--no-ibp-init", default=None, help="Idea 1: an initialisation under which bounds do not explode."
)
@click.option("--full-bn/--no-full-bn", default=None, help="Idea 2: BatchNorm after every hidden layer.")
@click.option("--tightness/--no-tightness", default=None, help="Idea 3, first regulariser.")
@click.option("--balance/--no-balance", default=None, help="Idea 3, second regulariser.")
@click.option("--reg-weight", type=REAL, metavar="LAMBDA", help="Weight of the regularisers at the start of the ramp.")
@click.option("--crop", type=WHOLE, metavar="PIXELS", help="Random shifts in training.")
@click.option("--flip/--no-flip", default=None, help="Random horizontal flips in training.")
@click.option("--held-out", type=REAL, metavar="SHARE", help="Of the training data, to show progress on.  [0.1]")
@click.option(
    "--select",
    type=click.Choice(["final", "held-out"]),
    help="Deliver the last weights, or those that certify most of the held-out part once eps is whole.  [final]",
)
@click.option("--optimiser", type=click.Choice(["adam", "adamw"]))
@click.option("--weight-decay", type=REAL, metavar="W")
@click.option("--l1", type=REAL, metavar="W", help="Weight of the sum of absolute weights.")
@click.option("--ema", type=REAL, metavar="DECAY", help="Deliver a running mean of the weights, such as 0.999.")
@click.option("--population-bn/--no-population-bn", default=None, help="Take statistics anew when training ends.")
@click.option("--loss", metavar="NAME", help="The robust loss: ibp, crown-ibp, mtl-ibp or pgd.  [the recipe's]")
@click.option("--alpha", type=REAL, metavar="SHARE", help="Of the bounds in mtl-ibp; the rest is an attack's.  [0.5]")
@click.option("--natural-start", type=REAL, metavar="SHARE", help="Of the natural loss where eps leaves zero.")
@click.option("--natural-end", type=REAL, metavar="SHARE", help="Of the natural loss at the full eps.")
@click.option("--adversary-steps", type=WHOLE, metavar="N", help="Steps of the attack that is trained on.")
@click.option("--adversary-step", type=REAL, metavar="LENGTH", help="Of each, in half widths of the box.")
@click.option(
    "--micro-batch", type=WHOLE, metavar="N", help="Samples whose bounds fit at once; the gradient stays the batch's."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Of products while training, never of what is certified; bf16 is too coarse for some.  [fp32; on a GPU tf32]",
)
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Compile training steps: a minute at first, then faster.  [no; on a GPU where it pays]",
)
@click.option("--keep-sparsity/--no-keep-sparsity", default=None, help="Weights that are exactly zero stay so.")
@proof_options
@devices_option
@gate_options
@click.pass_obj
def command(
    ending: Ending,
    model: Path,
    out: Path | None,
    force: bool,
    report: Path | None,
    style: str,
    write_config: Path | None,
    devices: int,
    **given: Any,
) -> int:
    """Train the classifier in MODEL, an ONNX file, to be certifiable at eps, and write it back into the same graph.

    \b
    pipeline retrain model.onnx --data npz:train.npz --eps 8/255
    pipeline retrain model.onnx --data torchvision:MNIST --eps 0.3 --epochs 30
    pipeline retrain model.onnx --data npz:train.npz --eps 8/255 --devices 8

    The file written is then certified on data it was not trained on. Checkpoints lie in OUT.run: the same command goes on
    where it was stopped, and trains nothing once it has finished.
    """
    from pipeline import commands
    from pipeline.cli.devices import launch, several
    from pipeline.cli.progress import Watch, consoles, present
    from pipeline.cli.signals import stopping
    from pipeline.system import run_folder

    flags = flags_of(given)
    flags["retrain"] = {name: flags.pop(name) for name in RECIPE if name in flags}
    if write_config is not None:
        made = commands.write_config(model, flags, write_config, force=force)
        click.echo(f"{write_config} holds every setting of {made.name}; nothing was trained", err=True)
        return 0
    folder = report or run_folder.of_retraining(out or run_folder.retrained(model))
    ending.will_be_in(folder, command="retrain", named=report is not None)
    if several(devices):
        return launch(ending, devices)
    standard, errors = consoles()
    with stopping() as asked:
        events = commands.retrain(
            model, flags, out=out, force=force, report=report, argv=sys.argv[1:], should_stop=asked.is_set
        )
        done = Watch(errors)(events)
    ending.reached(done)
    return present(done, style, standard)
