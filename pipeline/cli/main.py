"""The command group, and the one place where an exception becomes an exit code."""

from __future__ import annotations

import difflib
import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import click

from pipeline import package
from pipeline.cli import isolate, summary
from pipeline.cli.status import Ending, is_first_process
from pipeline.errors import EnvironmentFailure, PipelineError, out_of_memory, parts_of
from pipeline.system.allocator import keep_large_blocks

COMMANDS = {
    "certify": "Prove, sample by sample, that no perturbation inside a box changes the label.",
    "check-proof": "Replay the proofs of certified samples by an independent checker.",
    "compare": "Show what changed from one report to another, sample by sample.",
    "demo": "Certify and retrain the embedded digits classifier: the whole product in a minute.",
    "doctor": "Show what this machine can promise; measure its activation kernels.",
    "export-vnnlib": "Write one sample of a report as a property that other verifiers can check.",
    "init": "Write a job that certifies a model (GitHub, GitLab, SLURM, Kubernetes), and its settings.",
    "inspect": "Show a model's nodes, what bounds support, and where weights come from.",
    "merge": "Put the reports of shards together, and decide the gates of the whole run.",
    "report": "Show a report again: page, Markdown, JUnit, in-toto statement.",
    "retrain": "Train the model in an ONNX file to be certifiable, and write it back.",
    "schema": "Print the JSON Schema of a report.",
    "verify": "Check a report against its samples, its model and its data.",
    "vnnlib": "Answer VNN-LIB queries as verifiers do: verify, supports.",
}


SMALLER = "allow bounds less of it by --memory-budget, such as 256MB, or training by --micro-batch or --batch-size."


class Lazy(click.Group):
    """Commands are imported when they are run: ``pipeline --help`` must not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"pipeline.cli.{name.replace('-', '_')}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and (near := difflib.get_close_matches(args[0], COMMANDS, 1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package.version(), prog_name="pipeline")
@click.option(
    "--isolate/--no-isolate",
    default=None,
    help="Run in a child under limits of memory and time.  [on where CI is set; not on Windows]",
)
@click.option("--isolate-memory", metavar="SIZE", help="Of the child, such as 8GB.  [9/10 of the machine's]")
@click.option("--isolate-time", metavar="TIME", help="Of the child, such as 30m.  [6h]")
@click.option("-q", "--quiet", is_flag=True, help="Warnings and errors alone, and what --format json gives.")
@click.option(
    "-v", "--verbose", is_flag=True, help="Say of every phase how long it took, and every setting of retrain."
)
def group(
    isolate: bool | None, isolate_memory: str | None, isolate_time: str | None, quiet: bool, verbose: bool
) -> None:
    """How robust is an ONNX classifier, provably, and can it be made so?

    \b
    pipeline certify model.onnx --data npz:test.npz --eps 8/255
    pipeline retrain model.onnx --data npz:train.npz --eps 8/255

    Exit codes: 0 done, gates passed or none asked; 1 a gate failed; 2 usage; 3 input rejected; 4 incomplete;
    5 contradiction; 6 training diverged; 70 our fault; 74 environment; 75 preempted, run again; 130 interrupted.
    """


def main(argv: list[str] | None = None) -> None:
    """Run a command in this process and exit with its code."""
    keep_large_blocks()
    own_code_cache()
    sys.exit(_apart(sys.argv[1:] if argv is None else argv))


def own_code_cache() -> None:
    """Let PyTorch keep compiled code in the user's own cache folder, which no other user can have made first.

    Its default is a name below the system's folder for temporary files, from which it would load, and run, what lies there.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path("pipeline", appauthor=False) / "torchinductor"
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _apart(argv: list[str]) -> int:
    """Run a command here, or as a child process where that is asked for."""
    params = group.make_context("pipeline", list(argv), resilient_parsing=True).params
    if not isolate.is_isolated(params["isolate"], os.environ):
        return run(argv)
    code, message = 0, ""
    try:
        code = isolate.run(argv, _walls(params["isolate_memory"], params["isolate_time"]))
    except PipelineError as error:
        code, message = error.exit_code, str(error)
    return _report_end(code, message, argv)


def _walls(memory: str | None, seconds: str | None) -> isolate.Walls:
    from pipeline.settings import BYTES, amount
    from pipeline.settings import SECONDS as UNITS

    if not isolate.supported():
        raise EnvironmentFailure("--isolate needs limits that this system lacks; use a container or a virtual machine.")
    return isolate.Walls(
        int(amount(memory, BYTES, "800MB or 8GB") or isolate.MEMORY_SHARE * isolate.machine_memory()),
        float(amount(seconds, UNITS, "90s, 30m or 6h") or isolate.SECONDS),
    )


def run(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; errors go to standard error in one paragraph."""
    ending = Ending(sys.argv[1:] if argv is None else argv)
    code, message = _ended(argv, ending)
    return ending.close(_report_end(code, message, ending.argv), message)


def _report_end(code: int, message: str, argv: Sequence[str]) -> int:
    """The code, once the message is on standard error, on the page of a job, and where JSON was asked for an object."""
    if message:
        message = _clean(message)
        click.echo(f"pipeline: {message}", err=True)
        if is_first_process() and wants_json(argv):
            click.echo(as_json(code, message))
        if is_first_process():
            summary.failed(message, code)
    return code


def wants_json(argv: Sequence[str]) -> bool:
    """Whether a command line asks for JSON on standard output; it may be one that click cannot read."""
    return "--format=json" in argv or ("--format", "json") in pairwise(argv)


def as_json(code: int, message: str) -> str:
    """A failure as an object: the exit code, and the parts of the message."""
    failure = {"code": code, **parts_of(message)._asdict(), "message": message}
    # No build server may read a command in it.
    return json.dumps({"error": failure}, indent=2).replace("##", "#\\u0023")


def _clean(message: str) -> str:
    """A message may name what a stranger named. Where memory ran out, what cleans it may not load: then in plain ASCII."""
    try:
        from pipeline.results import clean
    except Exception as error:
        if not out_of_memory(error):
            raise
        return "".join(c if " " <= c <= "~" or c == "\n" else "?" for c in message)
    return "\n".join(clean(line, 4000) for line in message.split("\n"))


def _ended(argv: list[str] | None, ending: Ending) -> tuple[int, str]:
    """The exit code of a command, and why where it did not come to its end."""
    try:
        code: Any = group.main(args=argv, standalone_mode=False, prog_name="pipeline", obj=ending)
        return (code if isinstance(code, int) else 0), ""
    except click.exceptions.Exit as stop:
        return stop.exit_code, ""
    except click.ClickException as error:
        error.show(sys.stderr)
        if wants_json(sys.argv[1:] if argv is None else argv):
            click.echo(as_json(2, _clean(error.format_message())))
        return 2, ""
    except (KeyboardInterrupt, click.Abort):
        return 130, "interrupted"
    except PipelineError as error:
        return error.exit_code, str(error)
    except BrokenPipeError:
        # The reader of our output has closed it; Python would report that once more at exit.
        ending.reason = "standard output was closed before everything was written"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 74, ""
    except OSError as error:
        return 74, f"the machine did not provide what was needed: {error}"
    except Exception as error:  # the boundary: nothing but our own fault is left
        reason = (str(error).splitlines() or [""])[0][:300]
        if out_of_memory(error):
            return (
                (3, _over())
                if isolate.INSIDE in os.environ
                else (74, f"there is too little memory ({reason or type(error).__name__}): {SMALLER}")
            )
        # An error of its own since PyTorch 2.8.
        if type(error).__name__ == "AcceleratorError" or "CUDA error: " in reason:
            return 74, f"the device failed ({reason}): what was done until then is kept, so run the same command again."
        return 70, f"this is a fault of ours: {type(error).__name__}: {reason}\nPlease report it with {_save()}."


def _over() -> str:
    """Why an isolated run without memory ends as it does."""
    most = os.environ[isolate.INSIDE]
    return f"An isolated run takes at most {most} bytes of memory; this file asked for more. Allow more with --isolate-memory."


def _save() -> str:
    """The traceback in a file of its own, for a report to us."""
    with tempfile.NamedTemporaryFile("w", prefix="pipeline-", suffix=".traceback.txt", delete=False) as file:
        traceback.print_exc(file=file)
        return file.name
