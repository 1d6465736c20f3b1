"""A share of a run that several machines have shared out: which samples are its own, and what the whole run is held to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.results.blocks import Rows, blocks
from pipeline.results.facts import Exact, Sha256
from pipeline.results.rate import Frozen, law


class Asked(Frozen):
    """The gates of the whole run, as they were written: a shard decides none of them."""

    fail_under: tuple[str, ...] = ()
    gate_on: Literal["value", "lower-ci"] | None = None
    max_regression: tuple[str, ...] = ()
    significance: Exact | None = None
    require_parity: str | None = None
    baseline_sha256: Sha256 | None = None
    """Of the result that `max_regression` compares with."""


class Shard(Frozen):
    """Number `number` of `of` shares of a run over `n_run` samples; `run_sha256` is the digest of all that verdicts depend on.

    Of the samples that survived the attack, it saw no gradient on `blind`.
    """

    number: int = Field(ge=1)
    of: int = Field(ge=1)
    n_run: int = Field(ge=1)
    run_sha256: Sha256
    asked: Asked = Asked()
    blind: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _laws(self) -> Shard:
        law(self.number <= self.of <= len(blocks(self.n_run)), f"shard {self} of {self.n_run} samples")
        return self

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def blocks(self) -> list[Rows]:
        """Its blocks of the run's rows: every `of`-th, so that data in the order of their classes are shared out evenly."""
        return blocks(self.n_run)[self.number - 1 :: self.of]
