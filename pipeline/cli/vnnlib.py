"""``pipeline vnnlib``: the command line of VNN-LIB 2.0, for tools that drive verifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline import package
from pipeline.cli.numbers import Whole
from pipeline.cli.options import flags_of
from pipeline.errors import UsageError

CAPABILITIES = (
    *("onnx-opset-versions", "onnx-element-types", "onnx-operators", "vnnlib-versions", "hidden-node-theories"),
    *("multiple-input-output-theories", "multiple-network-theories", "multiple-node-comparison-theories"),
    *("arithmetic-complexity-theories", "optimised-disjunctive-reasoning", "serialise-assignments"),
)


@click.group("vnnlib", invoke_without_command=True)
@click.option("--name", is_flag=True, help="The name of this verifier.")
@click.option("--version", "versioned", is_flag=True, help="Its version.")
@click.pass_context
def command(ctx: click.Context, /, name: bool, versioned: bool) -> int:
    """Answer queries as the VNN-LIB standard has it (2.0, chapter 5): answers on standard output, all else on standard error.

    \b
    pipeline vnnlib verify query.vnnlib --network N=model.onnx --timeout 60
    pipeline vnnlib supports --onnx-operators
    """
    if ctx.invoked_subcommand is not None:
        return 0
    if name == versioned:
        raise UsageError("say verify, supports, --name or --version: `pipeline vnnlib --help` shows them.")
    click.echo("pipeline" if name else package.version())
    return 0


@command.command("verify")
@click.argument("query", type=click.Path(path_type=Path))
@click.option(
    "--network", "networks", multiple=True, metavar="NAME=FILE", help="The model of the network that QUERY declares."
)
@click.option("--timeout", type=Whole(1), metavar="SECONDS", help="Answer timed-out after so long.")
def verify(query: Path, networks: tuple[str, ...], timeout: int | None, **options: Any) -> int:
    """Whether an input of QUERY satisfies all of its assertions: sat with an assignment, unsat, unknown or timed-out.

    float32 is decided for every float32 evaluation, as `certify` does; real in exact arithmetic. VNN-LIB 1.0 is read too.
    """
    from pipeline.cli.progress import Watch, consoles
    from pipeline.commands.vnnlib_solver import verify

    named = dict(_named(text) for text in networks)
    watch, answer = Watch(consoles()[1]), ("unknown", "")
    with watch.bars:
        for event in verify(query, named, flags_of(options), timeout):
            if isinstance(event, tuple):
                answer = event
            else:
                watch.show(event)
    click.echo("\n".join(answer), nl=False)
    return 0


@command.command("supports")
@click.pass_context
def supports(ctx: click.Context, /, **flags: bool) -> int:
    """What can be answered, a capability at a time: a line each."""
    names = [name for name in CAPABILITIES if flags[name.replace("-", "_")]]
    if len(names) != 1:
        raise UsageError(f"supports answers one of {', '.join('--' + name for name in CAPABILITIES)}.")
    from pipeline.commands.vnnlib_solver import CAPABILITIES as LINES

    click.echo("".join(f"{line}\n" for line in LINES[names[0]]), nl=False)
    return 0


for name in CAPABILITIES:
    supports = click.option(f"--{name}", is_flag=True)(supports)


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UsageError(f"--network is NAME=FILE; received {text[:60]!r}.")
    return name, Path(path)
