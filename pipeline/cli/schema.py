"""``pipeline schema``."""

from __future__ import annotations

import json

import click


@click.command("schema")
def command() -> int:
    """Print the JSON Schema of report.json."""
    from pipeline.results import schema

    click.echo(json.dumps(schema(), indent=2))
    return 0
