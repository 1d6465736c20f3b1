"""``pipeline certify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import (
    data_options,
    devices_option,
    feature_options,
    flags_of,
    gate_options,
    inputs_options,
    ladder_options,
    model_argument,
    proof_options,
    threat_options,
)
from pipeline.cli.status import Ending
from pipeline.errors import UsageError


@click.command("certify")
@model_argument
@data_options
@click.option("--test-data", metavar="URI", hidden=True)
@threat_options
@feature_options
@inputs_options
@ladder_options
@proof_options
@click.option(
    "--property", "vnnlib", type=click.Path(path_type=Path), metavar="FILE", help="Decide a VNN-LIB property instead."
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Certify the I-th of N shares of the samples, such as 3/16; `pipeline merge` joins them.",
)
@click.option(
    "--proof",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a proof of each certified sample, for `pipeline check-proof`.",
)
@devices_option
@gate_options
@click.pass_obj
def command(
    ending: Ending,
    /,
    model: Path,
    vnnlib: Path | None,
    proof: Path | None,
    report: Path | None,
    style: str,
    devices: int,
    **options: Any,
) -> int:
    """Prove, sample by sample, that no perturbation within eps changes the label of MODEL, an ONNX file.

    \b
    pipeline certify model.onnx --data npz:test.npz --eps 8/255
    pipeline certify model.onnx --data dir:images --eps 2/255,8/255 --fail-under certified@2/255=0.5
    pipeline certify model.onnx --data npz:test.npz --eps 0.5 --norm l2 --time-budget 10m
    pipeline certify model.onnx --data csv:test.csv --scale std --eps 0.1
    pipeline certify model.onnx --property unsafe.vnnlib --time-budget 2m
    pipeline certify model.onnx --data npz:test.npz --eps 8/255 --devices 4
    pipeline certify model.onnx --data npz:test.npz --eps 8/255 --shard 3/16

    Cheapest first: an attack, IBP, CROWN-IBP, a longer attack, CROWN, alpha-CROWN, each on what is still open. Without
    --eps, the curve over 1/2 to 16/255 on 200 samples. The report (report.json, samples.npz, counterexamples.npz,
    report.html) goes to MODEL's name with .report in the working folder. Stopped, the same command goes on.

    With --property the answer is holds (exit 0), violated (1, with a counterexample), unknown or timeout (4).
    """
    if vnnlib is not None:
        if devices > 1:
            raise UsageError("a property is decided by one process; leave --devices out.")
        if proof is not None:
            raise UsageError("--proof is about samples; leave it out, or --property.")
        if options["shard"] is not None:
            raise UsageError("--shard shares out samples, and a property has none; leave it out.")
        from pipeline.cli.property import answer

        return answer(ending, model, vnnlib, flags_of(options), report, style)
    from pipeline.cli.devices import launch, several
    from pipeline.cli.progress import Watch, consoles, present
    from pipeline.cli.signals import stopping
    from pipeline.commands import certify
    from pipeline.numbers import parse_shard
    from pipeline.system import run_folder

    shard = None if options["shard"] is None else parse_shard(options["shard"])
    ending.will_be_in(
        report or run_folder.certification_folder(model, shard), command="certify", named=report is not None
    )
    if several(devices) and proof is not None:
        raise UsageError("--proof writes what one process proves; leave --devices out.")
    if several(devices):
        return launch(ending, devices)
    out, errors = consoles()
    with stopping() as stop:
        events = certify(
            model, flags_of(options), report=report, proof=proof, argv=sys.argv[1:], should_stop=stop.is_set
        )
        done = Watch(errors)(events)
    ending.reached(done)
    return present(done, style, out)
