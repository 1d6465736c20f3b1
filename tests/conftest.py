"""Where walks are tested: on the CPU always, on a CUDA device where there is one."""

from __future__ import annotations

import os

import pytest
import torch

import pipeline  # noqa: F401  (before ONNX Runtime, whose telemetry it switches off)
from tests import elsewhere
from tests.reports import (  # noqa: F401
    hostile_name,
    hostile_report,
    make_report,
    make_result,
    make_samples,
)

# Small tensors gain nothing from threads, and lose much by them wherever cores are shared. Processes that tests start
# inherit the same, so that they compute the same bits.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# Run folders are authenticated by a key of the tests' own; the user's state folder is left alone.
os.environ["PIPELINE_STATE_KEY"] = "7e" * 32
# In CI commands run as children under limits, which has tests of its own; here processes are looked for by their parents.
os.environ.pop("CI", None)
if elsewhere.AVAILABLE:
    elsewhere.register()  # before anything is differentiated: autograd counts the kinds of devices once


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """Each device in turn; CUDA is skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param
