"""What goes where: results to standard output, everything else to standard error; colours and bars to terminals alone."""

from __future__ import annotations

import json
import os
import sys

import pytest

from pipeline.cli.progress import Watch, consoles

FAST = ("certify", "model.onnx", "--data", "digits", "--max-samples", "20", "--method", "ibp")


def test_redirected_output_is_plain_and_json_is_alone(pipeline):
    code, out, err = pipeline(*FAST, "--format", "json")
    assert code == 0
    assert json.loads(out)["kind"] == "certification"
    assert "note: no eps was given" in err
    assert "\x1b" not in err
    _, out, err = pipeline(*FAST)
    assert "\x1b" not in out + err
    assert "━" not in err, "a bar is for a terminal"


@pytest.mark.skipif(os.name != "posix", reason="a terminal to write to")
@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_bars_and_colours_unless_it_wants_none(monkeypatch, no_color):
    # Others' ways of forcing colours or of being no terminal are not what is tried here.
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb"), os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        out, errors = consoles()
        assert out.is_terminal
        assert not Watch(errors).bars.disable
        with out.capture() as capture:
            out.print("x", style="red")
        assert ("\x1b[31m" in capture.get()) is not no_color
