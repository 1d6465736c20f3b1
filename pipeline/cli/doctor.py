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
    """Show what this machine can promise, or measure the kernels of activations OP (Sigmoid, Tanh, Exp, Erf if none).

    A float32 Sigmoid errs by what its ONNX Runtime build makes it err: its kernel is tried at all 2^32 inputs, some ten
    minutes an operator, and the errors are kept for this build and processor. Exit 74 where a self-test fails.
    """
    from pipeline.cli.progress import Watch, consoles
    from pipeline.commands.doctor import KernelMeasurement, diagnose, measure_kernels
    from pipeline.errors import UsageError

    out, errors = consoles()
    if not measuring:
        if operators or sample is not None:
            raise UsageError("operators and --sample belong to --measure-kernels.")
        found = diagnose()
        _show(found, out)
        return 0 if found.fault is None else 74
    watch = Watch(errors)
    with watch.bars:
        for event in measure_kernels(operators or ("Sigmoid", "Tanh", "Exp", "Erf"), sample=sample):
            if isinstance(event, KernelMeasurement):
                out.print(_line(event.operator, event.measured), markup=False, highlight=False)
                kept = f"stored in {event.file}" if event.file else "a sample: not stored"
                errors.print(f"note: {event.operator}: {kept}", markup=False, highlight=False, soft_wrap=True)
            else:
                watch.show(event)
    return 0


def _line(name: str, m: Any) -> str:
    relative = f" + {m.relative:.3g} |f|" if m.relative else ""
    tails = f"; {m.tail_mismatches} other bits in vector tails" if m.tail_mismatches else ""
    return f"{name}: error <= {m.absolute:.3g}{relative} at {m.points} inputs, largest output {m.largest!r}{tails}"


def _show(found: Any, out: Any) -> None:
    from pipeline.results import clean

    machine = found.table.machine
    measured = [_line(name, m) for name, m in found.table.operators.items()]
    cuda = found.cuda or "no device: --device cuda and --provider cuda are refused"
    rows = [
        ("versions", ", ".join(f"{k} {v}" for k, v in found.versions.items())),
        ("runtime", f"{machine.wheel.split()[0]}, {machine.build}"),
        ("processor", f"{machine.processor}: {' '.join(machine.instructions) or 'instructions unknown'}"),
        ("providers", ", ".join(found.providers)),
        ("CUDA", cuda),
        ("TF32", "off wherever this program runs a model; a deployment on CUDA must switch it off too (use_tf32=0)"),
        ("threads", f"{found.threads[1]} of {found.threads[0]} cores"),
        *(("telemetry", f"{package}: {said}") for package, said in found.telemetry.items()),
        ("self-test", found.fault or "float64 is IEEE arithmetic, as far as a test can see"),
        ("kernels", measured[0] if measured else "none measured for this ONNX Runtime build and processor"),
        *(("", line) for line in measured[1:]),
    ]
    if found.ignored:
        rows.append(("warning", found.ignored))
    if measured:
        rows.append(("table", f"{found.table.digest[:12]} in {found.file}"))
    if found.unmeasured:
        rows.append(("missing", f"{', '.join(found.unmeasured)}: float32-any-order refuses them until"))
        rows.append(("", f"pipeline doctor --measure-kernels {found.unmeasured[0]}   (about 10 min each)"))
    rows += [("fix", sentence) for sentence in found.remedies]
    for label, text in rows:
        out.print(f"{label:<10} {clean(text, 2000)}", markup=False, highlight=False, soft_wrap=True)
