"""What a caller gets of a run: its report and folder, and samples, table and figure of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import EnvironmentFailure, UsageError
from pipeline.render import notebook
from pipeline.results import DECIDERS, Report, Result, Samples, Verdict, read_samples

if TYPE_CHECKING:
    from pipeline.render.notebook import Figure


@dataclass(frozen=True, eq=False, repr=False)
class RunReport:
    """A report and the folder that it lies in. What its result holds, such as ``levels`` and ``gates``, are attributes too."""

    report: Report
    folder: Path

    @property
    def result(self) -> Result:
        """Everything deterministic that was table."""
        return self.report.result

    def __getattr__(self, name: str) -> Any:
        # Not reached for what is defined here; never for private names, which copying and pickling look for.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.report.result, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *Result.model_fields})

    def __repr__(self) -> str:
        return f"<{notebook.line(self.report)}>"

    def _repr_html_(self) -> str:
        return notebook.fragment(self.report)

    @cached_property
    def samples(self) -> Samples:
        """The verdict, margin and prediction of every sample. Raises UsageError where the folder has none."""
        if self.result.samples is None:
            raise UsageError(f"{self.folder} holds no samples; certify again.")
        return read_samples(self.folder / self.result.samples.file, self.result.samples)

    def columns(self) -> dict[str, list[Any]]:
        """One row a sample and eps: index, label, predicted, eps, verdict, lower bound of the margin, what decided it."""
        s = self.samples
        n, many = len(s), len(s.eps)
        table: dict[str, list[Any]] = {
            name: getattr(s, name).tolist() * many for name in ("index", "label", "predicted")
        }
        table["eps"] = [eps for eps in s.eps for _ in range(n)]
        table["verdict"] = [Verdict(code).word for code in s.verdict.ravel()]
        table["margin_lower"] = s.margin_lower.ravel().tolist()
        if s.decided_by is not None:
            table["decided_by"] = [DECIDERS[code] for code in s.decided_by.ravel()]
        if s.largest_eps is not None:
            table["largest_eps"] = s.largest_eps.tolist() * many
        return table

    def to_pandas(self) -> Any:
        """``columns`` as a DataFrame. Raises EnvironmentFailure (74) where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise EnvironmentFailure(
                "to_pandas takes pandas, which is not installed: `pip install pandas`, or take columns()."
            ) from None
        return pandas.DataFrame(self.columns())

    def plot(self) -> Figure:
        """Accuracy against eps, accuracy by class, and margins, as one figure of matplotlib."""
        return notebook.plot(self.report)
