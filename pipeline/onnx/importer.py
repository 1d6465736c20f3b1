"""ONNX -> Network: check, normalise, convert (``conversion.py``), and compare with ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch

from pipeline.choices import Optimization
from pipeline.core.network import Network
from pipeline.errors import InputRejected, out_of_memory
from pipeline.onnx import allowed, chosen_output, freeze, parity, runtime
from pipeline.onnx.conversion import convert
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import listed, shown
from pipeline.onnx.operators import TABLE
from pipeline.onnx.parity import MeasuredParity
from pipeline.onnx.passes.normalise import NormalisedGraph, normalise
from pipeline.onnx.probe import check_bombs
from pipeline.onnx.running import incomparable


@dataclass(frozen=True)
class Imported:
    """A file as a Network, with the comparison of the two."""

    file: ModelFile
    network: Network
    normalised: NormalisedGraph
    parity: MeasuredParity
    notes: tuple[str, ...]
    session: runtime.Session
    """The session on the CPU that parity was measured with; creating one takes half a minute where a value has 20,000 readers."""
    no_batch: InputRejected | None = None
    """Why a file whose inputs do not count samples could not be given a batch axis."""

    @property
    def model(self) -> onnx.ModelProto:
        """The file's own model, external data loaded."""
        return self.file.model

    def session_on(self, provider: str, level: Optimization) -> runtime.Session:
        """A session of the file at a provider and level: the one at hand, or a new one."""
        if (self.session.provider, self.session.level) == (provider, level):
            return self.session
        return runtime.session(self.file, provider=provider, level=level)


def load(
    file: ModelFile,
    *,
    output: str | None = None,
    real_inputs: np.ndarray | None = None,
    level: Optimization = "all",
    lift: bool = False,
) -> Imported:
    """The Network of a file, or of one of its outputs, in eval mode, with a free batch where the graph allows it.

    ``lift``: a file without a batch axis gets one, of size one.

    ``real_inputs``: samples to compare at besides random points; ``level``: of ONNX Runtime's optimisation. Raises InputRejected
    for a file that is unsafe or unsupported (all operators are named), or where the import computes something else (the first
    node that differs is named), UsageError for an output that the file does not have.
    """
    if output is None and (name := chosen_output.only(file.model)) is not None:
        imported = load(file, output=name, real_inputs=real_inputs, level=level, lift=lift)
        others = listed(o.name for o in file.model.graph.output if o.name != name)
        note = (
            f"output '{shown(name)}' was taken, the only one with numbers for each class, and what is stated is its largest entry"
            f", not {others}; --output names another"
        )
        return replace(imported, notes=(*imported.notes, note))
    model = file.model
    allowed.require(model, output, TABLE)
    check_bombs(model)
    # First of all under a limit of memory: ONNX Runtime folds constants where it loads the file itself.
    normal = normalise(model, output=output, lift=lift)
    session = runtime.session(file, level=level)
    free = _attempt(file, session, normal, output, real_inputs)
    if isinstance(free, Imported) and free.parity.holds:
        return free
    if lift:
        if isinstance(free, Exception):
            raise free
        parity.require(free.parity)
    fixed = _attempt(file, session, normalise(model, output=output, free_batch=False), output, real_inputs)
    if isinstance(fixed, Exception):
        raise fixed
    parity.require(fixed.parity)
    return fixed


WITHOUT_BATCH = "the file has no batch axis: it is run, and certified, one sample at a time"


def load_with_batch(file: ModelFile, *, output: str | None, level: Optimization) -> Imported:
    """As ``load``; a file whose inputs do not count samples gets a batch axis of one, where every operator can have it."""
    imported = load(file, output=output, level=level)
    if parity.batch_axis(imported.network):
        return imported
    try:
        lifted = load(file, output=output, level=level, lift=True)
    except InputRejected as error:
        return replace(imported, no_batch=error)  # whoever needs the axis says that it is missing
    return replace(lifted, notes=(*lifted.notes, WITHOUT_BATCH))


def _attempt(
    file: ModelFile, session: runtime.Session, normal: NormalisedGraph, output: str | None, real: np.ndarray | None
) -> Imported | InputRejected:
    """One import, with the batch made free or as the file has it. An error is returned: the other form may still succeed."""
    # Modules draw initial weights before they get the file's: the caller's random state must not change.
    with torch.random.fork_rng(devices=[]):
        network = convert(normal, file.model, output)
    try:
        for trace in normal.traces:
            trace.require()
        measured_parity = parity.compare(session, file.model, network, parity.points(network, real))
    except InputRejected as error:
        return error
    except (RuntimeError, ValueError, IndexError) as error:
        if out_of_memory(error):
            raise
        return incomparable(network, error)
    notes = list(normal.notes)
    if names := freeze.overridable(file.model):
        notes.append(
            f"a caller may override weights that are inputs too: {listed(names, 3)}; the file's own were imported"
        )
    if normal.free_batch and session.fixed_batch == 1:
        notes.append("the file fixes a batch of 1; the network takes any, and was compared one sample at a time")
    if not normal.free_batch and session.fixed_batch in (None, 1):
        reason = (
            "fixes a batch of 1 that cannot be made free" if session.fixed_batch else "does not run with two samples"
        )
        notes.append(f"the file {reason}: it is run, and certified, one sample at a time")
    return Imported(file, network, normal, measured_parity, tuple(notes), session)
