"""What every refusal must be."""

from __future__ import annotations

from pipeline.errors import PipelineError


def judge(error: PipelineError) -> None:
    """A refusal is a sentence about the file, and no fault of ours."""
    assert error.exit_code != PipelineError.exit_code, f"a fault of ours: {error!r}"
    assert len(str(error)) > 20, f"no sentence: {error!r}"
    assert len(str(error)) < 4000, "a sentence that nobody reads to its end"
    assert str(error).isprintable() or "\n" in str(error), f"control characters: {error!r}"
