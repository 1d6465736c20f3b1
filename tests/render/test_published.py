"""What others attained is quoted for this input and this eps, or not at all."""

from __future__ import annotations

from fractions import Fraction

import pytest

from pipeline.render.published import MNIST, TABLE, TINY, quoted


@pytest.mark.parametrize(
    ("shape", "eps", "says"),
    [
        ((3, 32, 32), "8/255", "CIFAR-10 at ε = 8/255"),
        ((3, 32, 32), "3/255", "CIFAR-10 at ε = 2/255"),
        ((3, 224, 224), "8/255", "CIFAR-10 at ε = 8/255"),
        (TINY, "2/255", "TinyImageNet at ε = 1/255"),
        (MNIST, "0.4", "MNIST at ε = 3/10"),
    ],
)
def test_the_nearest_is_quoted_with_its_own_eps(shape, eps, says):
    assert says in quoted(shape, Fraction(eps))


@pytest.mark.parametrize("eps", ["0.1", "1/1000", "1", "0"])
def test_nothing_is_quoted_for_an_eps_that_nobody_published(eps):
    assert quoted((1, 8, 8), Fraction(eps)) is None


def test_rows_are_plausible():
    assert all(row.certified < row.natural <= 100 for row in TABLE)
