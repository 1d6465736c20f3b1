"""Work in units: each is computed once, by one process, in this run or an earlier one that was stopped, within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.certify.journal import Arrays, Journal
from pipeline.distributed.group import SINGLE, ProcessGroup
from pipeline.errors import EnvironmentFailure, Preempted, out_of_memory
from pipeline.progress import Progress
from pipeline.system.clock import Clock, OutOfTime, preparing


def in_parts(compute: Callable[[np.ndarray], Arrays], rows: np.ndarray) -> Arrays:
    """``compute(rows)``; where memory runs out, the halves of the rows are computed one after the other, recursively.

    Raises EnvironmentFailure (74) where memory does not hold a single sample.
    """
    try:
        return compute(rows)
    except Exception as error:
        if not out_of_memory(error):
            raise
        if len(rows) == 1:
            raise EnvironmentFailure(
                f"there is too little memory for one sample: {str(error).splitlines()[0][:200]}. Free some, take a smaller "
                "--memory-budget or a cheaper --method."
            ) from None
    # Outside the handler, where the error no longer keeps tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(rows) // 2
    first, second = in_parts(compute, rows[:middle]), in_parts(compute, rows[middle:])
    return {name: np.concatenate([a, second[name]]) if a.ndim else a for name, a in first.items()}


@dataclass
class Work:
    """The processes, the journal and the limits of a run, and the seconds spent on each phase.

    A unit is a deterministic function of its key and its samples, so neither resumption nor the number of processes changes a
    bit of any result; only a budget can, by leaving units out.
    """

    group: ProcessGroup = SINGLE
    journal: Journal = field(default_factory=Journal)
    budget: float | None = None
    """Seconds from now, or from ``since`` on the monotonic clock."""
    since: float | None = None
    should_stop: Callable[[], bool] = lambda: False
    incomplete: bool = False
    """Whether the budget has left a unit out."""
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = Clock.of(self.budget, self.since)
        self.preparing = preparing(self.budget, self.since)

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.clock.over

    def units(
        self,
        key: str,
        cuts: Sequence[np.ndarray],
        compute: Callable[[np.ndarray], Arrays],
        *,
        phase: str,
        before: int = 0,
        total: int = 0,
        always: bool = False,
    ) -> Generator[Progress, None, list[Arrays | None]]:
        """Compute a unit for each array of samples in ``cuts``; the return value has None where the budget ran out first.

        With ``always`` all are computed, within a budget of at least ``PREPARING``, beyond which it raises OutOfTime (4).
        ``before`` of ``total`` samples of the phase were done already (for progress). Raises Preempted (75) when told to stop,
        after results have been written.
        """
        started = time.monotonic()
        keys = [f"{key}/{i}" for i in range(len(cuts))]
        mine = {i: arrays for i, k in enumerate(keys) if (arrays := self.journal.get(k, cuts[i])) is not None}
        known = set[int]().union(*self.group.all_gather(set(mine)))
        todo = [i for i in range(len(cuts)) if i not in known]
        total, estimate = total or sum(map(len, cuts)), None
        done = before + sum(len(cuts[i]) for i in known)
        fault: Exception | None = None
        for i in todo[self.group.rank :: self.group.world_size]:
            if self.should_stop() or (self.preparing.over if always else self.over):
                break
            try:
                mine[i] = in_parts(compute, cuts[i])
            except OutOfTime:
                break
            except Exception as error:  # raised below, once the other processes know: they would wait for this one
                fault = error
                break
            self.journal.put(keys[i], cuts[i], mine[i])
            done = min(done + len(cuts[i]) * self.group.world_size, total)
            estimate = estimate or (time.monotonic() - started) * total / max(len(cuts[i]) * self.group.world_size, 1)
            yield Progress(phase, done, total, estimate)
        by_process = self.group.all_gather((mine, self.should_stop(), fault is not None))
        if fault is not None:
            raise fault
        if any(failed for _, _, failed in by_process):
            raise EnvironmentFailure("another process of this run failed; its own message says why.")
        self.seconds[key.partition("#")[0]] = self.seconds.get(key.partition("#")[0], 0.0) + time.monotonic() - started
        if any(stop for _, stop, _ in by_process):
            self.journal.flush()
            raise Preempted("stopped as asked; what was decided is kept, and the same command goes on from there.")
        results = {i: arrays for part, _, _ in by_process for i, arrays in part.items()}
        if always and len(results) < len(cuts):
            raise OutOfTime
        self.incomplete = self.incomplete or len(results) < len(cuts)
        return [results.get(i) for i in range(len(cuts))]
