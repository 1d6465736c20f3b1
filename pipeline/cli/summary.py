"""The page of a GitHub job: ``$GITHUB_STEP_SUMMARY`` names the file that it is made of."""

from __future__ import annotations

import os

import click

VARIABLE = "GITHUB_STEP_SUMMARY"


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


def failed(message: str, code: int) -> None:
    """Say on the job's page why there is no report."""
    if os.environ.get(VARIABLE):
        from pipeline.render import prose

        append(f"### pipeline ended with exit code {code}\n\n{prose(message, 2000)}\n")
