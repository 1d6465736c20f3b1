"""``pipeline demo``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from pipeline.cli.numbers import WHOLE
from pipeline.cli.status import Ending


@click.command("demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder for everything."
)
@click.option("--eps", default="0.1", show_default=True, metavar="E", help="Radius as a fraction of the pixel range.")
@click.option("--seed", type=WHOLE, default=0, show_default=True)
@click.pass_obj
def command(ending: Ending, out: Path, eps: str, seed: int) -> int:
    """Certify the embedded digits classifier, retrain it, certify what was written: the whole product in a minute.

    The classifier is an ordinary small CNN; the data are the UCI optical digits, 8x8, CC BY 4.0. Nothing is downloaded.
    """
    from rich.text import Text

    from pipeline.cli.progress import Watch, consoles, present
    from pipeline.cli.signals import stopping
    from pipeline.commands import retrain

    out.mkdir(parents=True, exist_ok=True)
    model = out / "digits.onnx"
    model.write_bytes((files("pipeline.data") / "digits.onnx").read_bytes())
    ending.will_be_in(out / "report", command="demo", named=True)
    standard, errors = consoles()
    errors.print(Text(f"pipeline retrain {model} --data digits --eps {eps}", style="bold"))
    with stopping() as stop:
        events = retrain(
            model,
            {"data": "digits", "eps": eps, "seed": seed},
            force=True,
            report=out / "report",
            argv=("retrain", str(model), "--data", "digits", "--eps", eps),
            should_stop=stop.is_set,
        )
        done = Watch(errors)(events)
    ending.reached(done)
    code = present(done, "text", standard)
    standard.print(
        Text(f"Open {done.folder / 'report.html'} in a browser; {done.written} is the certified classifier.")
    )
    return code
