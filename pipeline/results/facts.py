"""The descriptive parts of a result: the model, the data, the method, and what stopped a search; without verdicts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from pipeline.results.rate import Frozen


def _encodable(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


# File names may contain bytes that are no text, names in a model any characters; JSON must represent both.
Name = Annotated[str, BeforeValidator(_encodable)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A fraction or decimal that is safe to evaluate: neither 1/0 nor 1e999999999.
EXACT = r"([0-9]{1,60}(/0{0,60}[1-9][0-9]{0,60})?|[0-9]{0,60}\.[0-9]{1,60})"
Exact = Annotated[str, Field(pattern=f"^{EXACT}$")]
Dimension = int | str | None


class Tool(Frozen):
    """The program that made the report."""

    name: str
    version: str


class FileDigest(Frozen):
    """A file by its name, without folders."""

    name: Name
    sha256: Sha256
    bytes: int


class Input(Frozen):
    """The model's input as the file declares it; a free dimension is a name or None."""

    name: Name
    dtype: str
    shape: tuple[Dimension, ...]


class InputUse(Input):
    """One of several inputs: `perturbed`, read from the `data` with each sample, or a `constant` for all samples."""

    use: Literal["perturbed", "data", "constant"]
    value: tuple[float, ...] | None = None


class Output(Frozen):
    """The model's output; `kind` says whether margins are taken of logits or before a final softmax.

    Of one number a sample, a `logit` or a `probability`, those above `threshold` mean label 1, the others 0.
    """

    name: Name
    shape: tuple[Dimension, ...]
    kind: str = "logits"
    classes: int
    threshold: float | None = None


class Model(Frozen):
    """The delivered file: its bytes are the certified object."""

    file: Name
    sha256: Sha256
    bytes: int
    external_data: tuple[FileDigest, ...] = ()
    structure_sha256: Sha256 | None = None
    weights_sha256: Sha256 | None = None
    ir_version: int
    opsets: dict[str, int]
    input: Input
    inputs: tuple[InputUse, ...] | None = None
    """The inputs of a file that has several; `input` is then their concatenation, without constants of other types."""
    output: Output
    parameters: int
    ops: dict[Name, int]
    metadata: dict[Name, Name] = Field(default_factory=dict)


class Preprocessing(Frozen):
    """How stored values become inputs: a pixel in `range`, minus `mean`, over `std` (per channel), in `layout`."""

    source: str
    range: tuple[float, float]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    notes: tuple[Name, ...] = ()


class Selection(Frozen):
    """Which samples were taken: all, or `max_samples` by `seed`."""

    method: Literal["all", "random"]
    seed: int | None = None
    max_samples: int | None = None


class Data(Frozen):
    """The evaluated part of a data set; `sha256` covers the whole part, before selection."""

    uri: Name
    part: str
    sha256: Sha256
    n_total: int
    n_evaluated: int
    selection: Selection
    class_names: tuple[Name, ...] | None = None
    notes: tuple[Name, ...] = ()


class Attack(Frozen):
    """An attack on every correctly classified sample, or on those that cheap bounds did not decide."""

    name: str
    steps: int = Field(ge=1)
    restarts: int = Field(ge=1)
    step_size: str = Field(pattern=r"^[0-9]{0,9}\.?[0-9]{1,12}(e-[0-9]{1,2})? eps$")
    loss: str
    seed: int = Field(ge=0)


class KernelErrors(Frozen):
    """The measured (absolute, relative) errors of float32 kernels, and the build that they hold for: its native library, the
    instructions by which it chooses its code, and the C library's mathematics if a kernel may call them."""

    runtime_sha256: Sha256
    instructions: Name
    libm: Name | None = None
    errors: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        libm = "" if self.libm is None else f" and the C library's mathematics {self.libm}"
        return f"{', '.join(self.errors)} as in the library with SHA-256 {self.runtime_sha256} on {self.instructions}{libm}"


class RuntimeExecution(Frozen):
    """The runtime of the file, and the digest of the graph that it executes: operators, attributes and constants, not names."""

    runtime: str
    version: str
    provider: str
    optimization: Literal["off", "basic", "extended", "all"]
    graph_sha256: Sha256
    kernels: KernelErrors | None = None
    """The measured errors on which the verdict rests; it then holds for their build."""

    def __str__(self) -> str:
        return (
            f"{self.runtime} {self.version} ({self.provider.upper()}, graph optimization {self.optimization}, executed graph "
            f"{self.graph_sha256[:12]}{'' if self.kernels is None else f'; {self.kernels}'})"
        )


class Method(Frozen):
    """How samples were certified, and the meaning of "certified": `statement`, under `assumptions`.

    `bounds` are the methods that may have been used, cheapest first, by `requested`; `long_attack` preceded CROWN. Branch and
    bound divided a region into at most `max_domains` parts, None where it was not used.
    """

    bounds: tuple[str, ...]
    requested: str | None = None
    dtype: str
    arithmetic: Literal["float32-any-order", "real", "none"]
    assumptions: tuple[str, ...] = ()
    statement: str
    attack: Attack | None = None
    long_attack: Attack | None = None
    memory_budget: int | None = None
    max_domains: int | None = None
    provider: str
    execution: RuntimeExecution | None = None


class Parity(Frozen):
    """How well the bounded network agrees with the delivered file under its runtime.

    At `points` points the values of all `nodes` nodes, in the file's own graph, were inside the intervals that bounds claim for
    the same inputs; `nodes_with_tolerance` of them, or of the steps within them, have no bound, and got `tolerance` relative to
    each entry (0 where there is none). The largest difference of outputs, whose size is at most `scale`, was measured at `n` of
    these points; `left_out` points have outputs that are not finite, or that differ because rounding decided a Sign, Floor, Round
    or comparison. The file was also run at `box_points` points of `boxes` certified samples, where labels and margins held.
    """

    provider: str
    n: int
    tolerance: float
    max_abs_difference: float
    scale: float
    argmax_disagreements: int
    left_out: int = 0
    batch_sizes: tuple[int, ...]
    points: int = 0
    nodes: int = 0
    nodes_with_tolerance: int = 0
    boxes: int = 0
    box_points: int = 0


class Caution(Frozen):
    """A warning, with a code if it has one."""

    code: str | None = None
    message: Name


Why = Literal["domains", "memory", "time", "split", "charge"]


class Unfinished(Frozen):
    """Why a sample, or a box of a property, is unknown: `index` counts in the data's part, or among the boxes.

    `why`: the allowed number of parts (`domains`), `memory` or `time` was used up; some part has all signs assumed and is still
    not proved (`split`); or it is proved in real arithmetic alone, since float32 may lose more than the margin (`charge`).
    `domains` parts were bounded, with at most `depth` assumed signs; `bound` is the least lower bound of an open part without
    rounding, of which float32 takes at least `charge`. Of the loss of that bound in the relaxations of ReLUs, `share` is due to
    `layer`.
    """

    index: int = Field(ge=0)
    why: Why
    domains: int = Field(ge=0)
    depth: int = Field(ge=0)
    bound: float | None
    charge: float | None
    layer: Name | None = None
    share: float | None = Field(default=None, ge=0, le=1)
