"""The statement that a verdict makes, by mode of arithmetic, and the assumptions that it rests on."""

from __future__ import annotations

from pipeline.choices import Mode
from pipeline.results.threat import Threat

SAMPLES: dict[Mode, str] = {
    "float32-any-order": (
        "For every certified sample and every real input in its {region}, this ONNX file gives the sample's label: in exact real "
        "arithmetic; in every float32 evaluation of its own graph, operator by operator, in which each affine output is computed "
        "by IEEE round-to-nearest operations in any order, with or without FMA, flush-to-zero allowed, folding of BatchNorm, "
        "scale and bias allowed; and as executed by {execution}, each of whose rewritings of the file is accounted for."
    ),
    "real": (
        "For every certified sample and every real input in its {region}, the network of this ONNX file evaluated in exact real "
        "arithmetic gives the sample's label. Bounds include the rounding of this tool. Nothing is promised about float32 "
        "execution."
    ),
    "none": "Bounds without any account of rounding, for comparisons of speed: nothing is certified.",
}
"""The statement of a certification; ``region`` is what a threat allows around a sample, ``execution`` what runs the file."""


def region_of(threat: Threat) -> str:
    """The region that a threat allows around a sample, as a statement names it."""
    if threat.features is None:
        return "box" if threat.norm == "linf" else "Euclidean ball"
    fixed = len(threat.features.fixed)
    count = len(threat.features.radii)
    stay = f"; {fixed} of {count} features stay exactly as they are" if fixed else ""
    return f"box (each feature within eps times its own radius{stay})"


PROPERTY: dict[Mode, str] = {
    "float32-any-order": (
        "For every real input of every box, and for the float32 nearest to it, this ONNX file gives outputs outside the unsafe "
        "set: in exact real arithmetic, in every float32 evaluation of its own graph, operator by operator, in any order of IEEE "
        "operations, and as executed by {execution}, each of whose rewritings of the file is accounted for."
    ),
    "real": (
        "For every real input of every box, the network of this ONNX file in exact real arithmetic stays outside the unsafe set."
    ),
    "none": "Bounds without any account of rounding: nothing is proved.",
}
"""The statement of a property that holds."""


_FOLDED = "Expressions of constants alone have the values that ONNX Runtime gives them in float32."
ASSUMPTIONS: dict[Mode, tuple[str, ...]] = {
    "float32-any-order": (
        "Covered: ONNX Runtime on CPU with float32 kernels; CUDA with TF32 and transform convolutions off.",
        "Not covered: TF32, bfloat16 and float16 fast modes, Winograd and FFT convolutions, INT8, TensorRT, faulty hardware.",
        "The float64 matrix products of this machine are IEEE operations in some order; a self-test ran before the bounds.",
        _FOLDED,
    ),
    "real": (
        "The float64 matrix products of this machine are IEEE operations in some order; libm errs by at most 4 ulp.",
        _FOLDED,
    ),
    "none": (),
}
"""The assumptions of both, besides those about measured kernels."""
