"""A shard of a run: which samples it has, and the gates of the whole run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.results.blocks import Rows, blocks
from pipeline.results.facts import Exact, Sha256
from pipeline.results.rate import Frozen, law


class RunGates(Frozen):
    """The gates of the whole run, as they were given; a shard decides none of them."""

    fail_under: tuple[str, ...] = ()
    gate_on: Literal["value", "lower-ci"] | None = None
    max_regression: tuple[str, ...] = ()
    significance: Exact | None = None
    require_parity: str | None = None
    baseline_sha256: Sha256 | None = None
    """The digest of the result that `max_regression` compares with."""


class Shard(Frozen):
    """Shard number `number` of `of` of a run over `n_run` samples; `run_sha256` is the digest of all that verdicts depend on.

    `blind` counts the samples that survived an attack which saw no gradient on them.
    """

    number: int = Field(ge=1)
    of: int = Field(ge=1)
    n_run: int = Field(ge=1)
    run_sha256: Sha256
    asked: RunGates = RunGates()
    blind: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _laws(self) -> Shard:
        law(self.number <= self.of <= len(blocks(self.n_run)), f"shard {self} of {self.n_run} samples")
        return self

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def blocks(self) -> list[Rows]:
        """The blocks of the run's rows in this shard: every `of`-th, so that data sorted by class are divided evenly."""
        return blocks(self.n_run)[self.number - 1 :: self.of]
