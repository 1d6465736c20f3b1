"""Certify how robust an ONNX classifier provably is, and retrain it until it is: ONNX in, ONNX out.

The commands are functions too. A file, a data set, a radius; a result of counts::

    >>> from pipeline.api import certify, retrain
    >>> found = certify("digits.onnx", "digits", eps="1/1000", max_samples=40)
    >>> level = found.levels[0]
    >>> level.certified.k <= level.attacked.k <= level.natural.k
    True

Several radii at once, and gates, decided on counts and not on rounded numbers::

    >>> found = certify("digits.onnx", "digits", eps=["1/255", "0.1"], method="ibp", fail_under=("certified@0.1=0.5",))
    >>> found.verdict, found.gates[0].observed
    ('fail', '0.0000')

What an ordinary model cannot prove, a retrained one can. The new weights go into the same graph, in a new file, and that file
is what is certified::

    >>> found = retrain("digits.onnx", "digits", eps="0.1", epochs=20, method="ibp", attack=False)
    >>> found.training.before.certified.k, found.training.after.certified.k > 100
    (0, True)
    >>> found.model.file
    'digits.certified.onnx'

The report lies beside it: a page, a JSON file with a digest, and a verdict for every sample::

    >>> from pathlib import Path
    >>> (Path("digits.certified.report") / "report.html").exists()
    True

``pipeline.commands`` yields the same as events, for those who show progress.

Beneath them is one idea: a graph is walked with different kinds of value. With tensors it is inference, with boxes it is
interval bound propagation, and linear forms pulled back from the logits are margins::

    >>> import torch
    >>> from fractions import Fraction
    >>> from pipeline.core.rounding import rounding_of
    >>> from pipeline.onnx import importer, model_file
    >>> from pipeline.bounds.margins import MarginBounds
    >>> from pipeline.core.threat import LinfBall
    >>> network = importer.load(model_file.read("digits.onnx")).network.in_float64()
    >>> x = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64)
    >>> label = network(x).argmax(1)
    >>> box = LinfBall(Fraction(1, 10**6)).box(x)
    >>> least = MarginBounds(network, rounding_of("float32-any-order")).least(box, label)
    >>> bool(least > 0)
    True

What each operator means for each kind of value stands in ``pipeline.rules``, one class an operator.
"""

import pipeline.system.telemetry  # noqa: F401  (before anything can load ONNX Runtime)
