"""No node ends the process or hangs it: each candidate is imported in a child of its own, and ends in a specified code."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from pipeline.errors import PipelineError, out_of_memory
from pipeline.onnx import importer, model_file
from tests.onnx.absurd_forms import ROW, Absurd, X, equations, numbers, one, shapes, whole
from tests.onnx.files import mlp, saved

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a child is a fork")
SECONDS = 30


def ended(case: Absurd, folder: Path) -> str:
    """How an import ends in a child: 0, 3, 74, 70 with its error, the signal, or that it hangs."""
    path = folder / "absurd.onnx"
    path.write_bytes(case.model.SerializeToString())
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            importer.load(model_file.read(path))
        except PipelineError as error:
            os._exit(error.exit_code)
        except BaseException as error:
            os._exit(74 if out_of_memory(error) else 70)
        os._exit(0)
    began = time.monotonic()
    while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - began > SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(found[1])
    return str(code) if code >= 0 else signal.Signals(-code).name


def all_end_well(cases: itertools.chain | list, folder: Path) -> None:
    importer.load(model_file.read(saved(folder, mlp(), "ready.onnx")))  # libraries are loaded once, before any fork
    wrong = [(case.name, how) for case in cases if (how := ended(case, folder)) not in ("0", "3", "74")]
    assert wrong == []


def test_what_was_found_to_end_the_process(tmp_path: Path) -> None:
    image = ("batch", 2, 4, 4)
    found = [
        *(one("Einsum", ROW, [X], equation=text) for text in ("abcdefgh->a", "....->i", "i..j->i")),
        one("ConvTranspose", image, [X, np.ones((2, 2, 2, 2), np.float32)], group=0),
        one("DepthToSpace", ("batch", 4, 2, 2), [X], blocksize=2**40),
        *(one("GatherND", ROW, [X, whole(0).reshape(1, 1)], batch_dims=v) for v in (-2, -(2**31), -(2**62))),
        one("Split", ROW, [X], 18, 2, axis=1, num_outputs=1),
        *(one(op, ROW, [whole(-(2**63)), whole(v)]) for op in ("Div", "Mod") for v in (0, -1)),
    ]
    all_end_well(found, tmp_path)


def test_no_shape_is_inferred_before_every_attribute_was_looked_at(tmp_path: Path) -> None:
    """onnx's own inference aborts at such a Split, and an Einsum in front of it asks for shapes."""
    bad = one("Split", ROW, [X], 23, 4, axis=1, num_outputs=1)
    first = helper.make_node("Einsum", ["x"], ["before"], equation="bi->bi")
    bad.model.graph.node.insert(0, first)
    bad.model.graph.node[1].input[0] = "before"
    assert ended(bad, tmp_path) == "3"


def test_a_mean_over_everything_is_no_fault_of_ours(tmp_path: Path) -> None:
    """Its one number has no axis."""
    all_end_well([one("Expand", ROW, [X, whole(1, 1)])], tmp_path)


def test_a_share_of_all(tmp_path: Path) -> None:
    every = itertools.chain(numbers(), equations(), shapes())
    all_end_well(list(itertools.islice(every, 7, None, 53)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(16))
def test_all(part: int, tmp_path: Path) -> None:
    every = itertools.chain(numbers(), equations(), shapes())
    all_end_well(list(itertools.islice(every, part, None, 16)), tmp_path)
