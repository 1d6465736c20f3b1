"""What all tests share: devices, options of the command line, and what `make test` leaves to `make test-all`."""

from __future__ import annotations

import os

import pytest
import torch

import pipeline  # noqa: F401  (before ONNX Runtime, whose telemetry it switches off)
from tests import cpu, elsewhere, selection
from tests.reports import (  # noqa: F401
    hostile_name,
    hostile_report,
    make_report,
    make_result,
    make_samples,
)

torch.set_num_threads(1)  # for the reason that tests/__init__.py gives
# Run folders are authenticated by a key of the tests' own; the user's state folder is left alone.
os.environ["PIPELINE_STATE_KEY"] = "7e" * 32
# In CI commands run as children under limits, which has tests of its own; here processes are looked for by their parents.
os.environ.pop("CI", None)
# Sentences are looked for as they are broken into lines on no terminal; pytest-xdist tells its workers the width of one.
os.environ.pop("COLUMNS", None)
if elsewhere.AVAILABLE:
    elsewhere.register()  # before anything is differentiated: autograd counts the kinds of devices once


def pytest_addoption(parser: pytest.Parser) -> None:
    cpu.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    cpu.register(config)
    selection.configure(config)


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    selection.mark_what_pairs_leave_out(items)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """Each device in turn; CUDA is skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


_DRAWN: dict[tuple[str, float], str] = {}


@pytest.fixture
def drawn_once(request, monkeypatch) -> None:
    """In `make test`, a page's figures are those of the first report in this process: matplotlib takes most of a short command.

    Captions, tables and all else are the report's own. The tests of pages (tests/render) and `make test-all` draw every figure.
    """
    if selection.everything(request.config):
        return
    from pipeline.render import svg

    draw = svg.drawn

    def first(paint, key: str, height: float) -> str:
        if (key, height) not in _DRAWN:
            _DRAWN[key, height] = draw(paint, key, height)
        return _DRAWN[key, height]

    monkeypatch.setattr(svg, "drawn", first)
