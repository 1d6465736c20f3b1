"""Certify how robust an ONNX classifier provably is, and retrain it until it is: ONNX in, ONNX out.

The commands are functions too; they yield events, and the last one holds the report::

    >>> from pathlib import Path
    >>> from pipeline.workflow import certify
    >>> *_, done = certify(Path("digits.onnx"), {"data": "digits", "eps": "1/1000", "max_samples": 40})
    >>> level = done.report.result.levels[0]
    >>> level.certified.k <= level.attacked.k <= level.natural.k
    True
    >>> (done.folder / "report.html").exists()
    True

Beneath them is one idea: a graph is walked with different kinds of value. With tensors it is inference, with boxes it is
interval bound propagation, and linear forms pulled back from the logits are margins::

    >>> import torch
    >>> from fractions import Fraction
    >>> from pipeline.arithmetic import rounding_of
    >>> from pipeline.graph.importer import load
    >>> from pipeline.propagate.margins import MarginBounds
    >>> from pipeline.threat import LinfBall
    >>> network = load("digits.onnx").network.in_float64()
    >>> x = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64)
    >>> label = network(x).argmax(1)
    >>> box = LinfBall(Fraction(1, 10**6)).box(x)
    >>> least = MarginBounds(network, rounding_of("float32-any-order")).bounds(box, label)
    >>> bool(least > 0)
    True

What each operator means for each kind of value stands in ``pipeline.rules``, one class an operator.
"""
