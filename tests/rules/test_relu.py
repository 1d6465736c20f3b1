"""What the laws leave open of ReLU: boxes that are undefined, and neurons that are decided."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.rules import rule_for

RELU = nn.ReLU()


def pulled(box: Interval, alpha: float | None = None) -> LinearForm:
    """The form ``sum of outputs`` pulled back, one row, with the lower slope of every neuron set where ``alpha`` says so."""
    relaxation = rule_for(RELU).relax(RELU, box)
    form = LinearForm(torch.ones(1, *box.center.shape, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    slopes = None if alpha is None else torch.full_like(form.coeff, alpha)[None]
    (form_back,) = relaxation.pull_back(form, slopes)
    return form_back


def test_an_undefined_box_has_undefined_lines() -> None:
    """Never those of an inactive neuron, whose bound would be zero."""
    for box in (
        Interval(torch.tensor([[torch.nan]]), torch.tensor([[1.0]])),
        Interval(torch.tensor([[0.0]]), torch.tensor([[torch.nan]])),
    ):
        form = pulled(Interval(box.center.double(), box.radius.double()))
        assert not torch.isfinite(form.coeff).all()


def test_a_decided_neuron_is_exact_whatever_alpha_is_tried() -> None:
    box = Interval(torch.tensor([[2.0, -2.0, 0.0]]).double(), torch.ones(1, 3).double())
    for alpha in (0.0, 0.25, 1.0):
        assert pulled(box, alpha).coeff.flatten().tolist() == [1.0, 0.0, alpha]
