"""The report as one HTML page (placeholder, replaced below)."""

from __future__ import annotations

from pipeline.report.result import Report


def render(report: Report) -> str:
    return "<!doctype html>"
