"""What GitHub shows of a job: its page, from the file that ``$GITHUB_STEP_SUMMARY`` names, and annotations of a pull request."""

from __future__ import annotations

import os

import click

VARIABLE, RUNNER = "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"


def append(text: str) -> None:
    """Add Markdown to the job's page where there is one. A page that cannot be written changes no exit code."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8") as page:
            page.write(text + "\n")
    except OSError as error:
        click.echo(f"warning: ${VARIABLE} cannot be written: {error.strerror}", err=True)


def annotate(title: str, message: str) -> None:
    """An error that GitHub shows beside the changes of a pull request; nothing where GitHub does not run this.

    A line of its own on standard error, which the runner reads as well: standard output may be JSON.
    """
    if os.environ.get(RUNNER) == "true":
        click.echo(f"::error title={_escaped(title, ':,')}::{_escaped(message)}", err=True)


def _escaped(text: str, more: str = "") -> str:
    """As workflow commands write it: what would end a value, or the line, as its code."""
    return "".join(f"%{ord(c):02X}" if c in "%\r\n" + more else c for c in text)


def failed(message: str, code: int) -> None:
    """Say on the job's page, and on the pull request, why there is no report."""
    annotate(f"pipeline ended with exit code {code}", message)
    if os.environ.get(VARIABLE):
        from pipeline.render import prose

        append(f"### pipeline ended with exit code {code}\n\n{prose(message, 2000)}\n")
