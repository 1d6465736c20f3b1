"""``pipeline retrain``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.numbers import WHOLE
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
from pipeline.cli.recipe_options import FIELDS, GroupedCommand, recipe_options
from pipeline.cli.status import Ending


@click.command("retrain", cls=GroupedCommand)
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
    help="shi2021: the paper's; fast: ours, longer steps and a share of an attack's loss; distil: ours, with the given network "
    "as the attack's teacher; mtl-ibp; vanilla-ibp, crown-ibp, pgd: baselines without the paper's ideas.  [fast]",
)
@click.option(
    "--compare",
    metavar="NAME,NAME",
    help="Compare recipes first, in brief runs (an eighth of the epochs or 600 steps; two learning rates, three seeds), "
    "judged on the held-out part of the training data; the best is then trained in full. fast:alpha=0.5 sets an option.",
)
@click.option(
    "--write-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write every setting of the recipe to FILE, to be edited and read back as pipeline.toml, and train nothing.",
)
@click.option(
    "--budget",
    metavar="TIME",
    help="Choose the number of epochs so that training takes 90s, 30m or 8h here, by timing steps; it then goes on to its end, "
    "however long that takes (--time-budget stops it).",
)
@time_budget("training", "a checkpoint is left (exit 75), and the same command goes on.")
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
@click.option(
    "--graph/--no-graph",
    default=None,
    help="Launch each training step, optimiser included, as one CUDA graph; on a CPU the same steps run without one.  [no]",
)
@proof_options
@devices_option
@click.option(
    "--require-improvement",
    is_flag=True,
    default=None,
    help="Exit 1 unless the new file certifies more than the given one, and withstands the attack no less.",
)
@gate_options
@recipe_options
@click.pass_obj
def command(
    ending: Ending,
    /,
    model: Path,
    out: Path | None,
    force: bool,
    report: Path | None,
    style: str,
    write_config: Path | None,
    devices: int,
    **options: Any,
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
    from pipeline.cli.bars import loudness
    from pipeline.cli.devices import launch, several
    from pipeline.cli.progress import Watch, consoles, present
    from pipeline.cli.signals import stopping
    from pipeline.system import run_folder

    flags = flags_of(options)
    flags["retrain"] = {name: flags.pop(name) for name in ("recipe", *FIELDS) if name in flags}
    if write_config is not None:
        recipe = commands.write_config(model, flags, write_config, force=force)
        click.echo(f"{write_config} holds every setting of {recipe.name}; nothing was trained", err=True)
        return 0
    folder = report or run_folder.retraining_folder(out or run_folder.retrained_file(model))
    ending.will_be_in(folder, command="retrain", named=report is not None)
    if several(devices):
        return launch(ending, devices)
    standard, errors = consoles()
    with stopping() as stop:
        events = commands.retrain(
            model,
            flags,
            out=out,
            force=force,
            report=report,
            argv=sys.argv[1:],
            should_stop=stop.is_set,
            verbose=loudness() > 0,
        )
        done = Watch(errors)(events)
    ending.reached(done)
    return present(done, style, standard)
