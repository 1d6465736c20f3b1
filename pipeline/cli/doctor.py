"""``pipeline doctor``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.numbers import WHOLE


@click.command("doctor")
@click.option("--measure-kernels", "measuring", is_flag=True, help="Measure activation kernels and store their errors.")
@click.option("--sample", type=WHOLE, metavar="N", help="Try N inputs only, for a look; nothing is stored.")
@click.argument("operators", nargs=-1, metavar="[OP]...")
def command(measuring: bool, sample: int | None, operators: tuple[str, ...]) -> int:
    """Show what this machine can promise, or measure the kernels OP (if none: Sigmoid, Tanh, Exp, Erf, Softmax).

    A float32 Sigmoid errs by what its ONNX Runtime build makes it err. For some builds that is known; for another, each kernel
    is tried at all 2^32 inputs, two to five minutes of CPU an operator, and the errors are kept in your folder for state, for
    this library on these instructions alone. Exit 74 where a self-test fails, or a kernel is not what its table says.
    """
    from pipeline.cli.bars import consoles
    from pipeline.errors import EnvironmentFailure, UsageError

    out, errors = consoles()
    if not measuring:
        if operators or sample is not None:
            raise UsageError("operators and --sample belong to --measure-kernels.")
        _show_installation(out)
        try:
            from pipeline.commands.doctor import diagnose
        except ImportError as error:
            raise EnvironmentFailure(
                f"a package that is installed cannot be imported, so that nothing can be certified: {error}. Mend what the "
                "lines `fix` name, or install the program anew in an environment of its own."
            ) from None
        diagnosis = diagnose()
        _show(diagnosis, out)
        return 0 if diagnosis.fault is None else 74
    from pipeline.cli.progress import Watch
    from pipeline.commands.doctor import KernelMeasurement, measure_kernels

    watch = Watch(errors)
    with watch.bars:
        for event in measure_kernels(operators or ("Sigmoid", "Tanh", "Exp", "Erf", "Softmax"), sample=sample):
            if isinstance(event, KernelMeasurement):
                out.print(_line(event.operator, event.measured), markup=False, highlight=False)
                place = f"stored in {event.file}" if event.file else "a sample: not stored"
                errors.print(f"note: {event.operator}: {place}", markup=False, highlight=False, soft_wrap=True)
            else:
                watch.show(event)
    return 0


def _line(name: str, m: Any) -> str:
    relative = f" + {m.relative:.3g} |f|" if m.relative else ""
    tails = (
        f"; {m.rest_mismatches} other bits in the rest of vectors" if m.rest_mismatches and name != "Softmax" else ""
    )
    return f"{name}: error <= {m.absolute:.3g}{relative} at {m.points} inputs, largest output {m.largest:.9g}{tails}"


def _show_installation(out: Any) -> None:
    """What is installed, printed before anything heavy is imported, which might fail."""
    from pipeline.commands.installation import OPTIONAL, Installation

    installed = Installation.here()
    rows = [("versions", ", ".join(f"{k} {v}" for k, v in installed.versions.items()))]
    rows += [("telemetry", f"{package}: {state}") for package, state in installed.telemetry.items()]
    for package in installed.absent:
        rows.append(("optional", f"{package} is not installed, which {OPTIONAL[package]} needs: pip install {package}"))
    _print([*rows, *(("fix", sentence) for sentence in installed.problems)], out)


def _print(rows: list[tuple[str, str]], out: Any) -> None:
    from pipeline.results import clean

    for label, text in rows:
        out.print(f"{label:<10} {clean(text, 2000)}", markup=False, highlight=False, soft_wrap=True)


def _show(diagnosis: Any, out: Any) -> None:
    build, operators = diagnosis.table.build, diagnosis.table.operators
    measured = [
        f"{_line(name, m)}{'' if name in diagnosis.table.shipped else ' (measured here)'}"
        for name, m in operators.items()
    ]
    cuda = diagnosis.cuda or "no device: --device cuda and --provider cuda are refused"
    rows = [
        ("runtime", f"ONNX Runtime {build.onnxruntime}, library SHA-256 {build.runtime_sha256}"),
        ("processor", build.instructions),
        ("providers", ", ".join(diagnosis.providers)),
        ("CUDA", cuda),
        ("TF32", "off wherever this program runs a model; a deployment on CUDA must switch it off too (use_tf32=0)"),
        ("threads", f"{diagnosis.threads[1]} of {diagnosis.threads[0]} cores"),
        ("self-test", diagnosis.fault or "float64 is IEEE arithmetic, as far as a test can see"),
        ("kernels", measured[0] if measured else "none known for this library on these instructions"),
        *(("", line) for line in measured[1:]),
    ]
    if diagnosis.ignored:
        rows.append(("warning", diagnosis.ignored))
    if set(operators) - diagnosis.table.shipped:
        rows.append(("measured", f"in {diagnosis.file}"))
    if diagnosis.unmeasured:
        rows.append(("missing", f"{', '.join(diagnosis.unmeasured)}: float32-any-order refuses them until"))
        rows.append(("", f"pipeline doctor --measure-kernels {diagnosis.unmeasured[0]}   (minutes of CPU each)"))
    _print([*rows, *(("fix", sentence) for sentence in diagnosis.problems)], out)
