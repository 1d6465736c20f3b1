"""The judge of counterexamples: its own reading of the file, no tolerance, and agreement with the parser."""

from __future__ import annotations

from fractions import Fraction as Q

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.certify.witness import _nearest, check
from pipeline.errors import InputRejected
from pipeline.vnnlib import nearest32, parse

TEXT = """; y = (x0, x1 + 1)
(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (>= X_0 0.1)) (assert (<= X_0 0.5)) (assert (>= X_1 0)) (assert (<= X_1 1))
(assert (or (and (<= Y_0 0.25) (>= Y_1 1.5)) (> (- Y_0 Y_1) 3)))
(assert (<= (+ Y_0 (* 2 Y_1)) 4))
"""


def run(x):
    return x + np.array([0, 1], np.float32)


@pytest.mark.parametrize(
    ("x", "refused"),
    [
        ((Q(1, 4), Q(1, 2)), None),
        ((Q(1, 10), Q(1, 2)), None),
        ((Q(1, 10) - Q(1, 10**30), Q(1, 2)), "assertion 1 is false"),
        ((Q(float(np.float32(0.5000001))), Q(1, 2)), "assertion 2 is false"),
        ((Q(1, 2), Q(1, 2)), "assertion 5 is false"),
        ((Q(1, 4), Q(1)), "assertion 6 is false"),
    ],
)
def test_no_tolerance(x, refused):
    assert check(TEXT, x, run).refused == refused


def test_an_input_that_is_no_float32_is_given_as_the_nearest():
    witness = check(TEXT, (Q(1, 10), Q(1, 2)), run)
    assert witness.rounded == 1
    assert witness.point[0] == np.float32(0.1)
    assert witness.y[0] == np.float32(0.1)


def test_outputs_that_are_not_finite_are_no_witness():
    assert "finite" in check(TEXT, (Q(1, 4), Q(1, 2)), lambda x: x * np.nan).refused


@given(st.fractions(min_value=-(10**20), max_value=10**20, max_denominator=10**15))
def test_two_roundings_written_apart_agree(q):
    assert _nearest(q) == nearest32(q)
    assert _nearest(q / 2**140) == nearest32(q / 2**140)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "outside"),
        ("(assert " + "(and " * 300 + "(<= Y_0 1)" + ")" * 301, "deep"),
        ("(assert (<= Y_0 1e999999999))", "decimal"),
        ("(assert (<= Y_0", "closes"),
        ("(assert (and (<= Y_0 1) 3))", "another kind"),
        ("(assert (= Y_0 1))", "'='"),
        ("(assert 3)", "one formula"),
        ("(check-sat)", "check-sat"),
    ],
)
def test_what_it_cannot_read_it_refuses(text, message):
    with pytest.raises(InputRejected, match=message):
        check(text, (Q(0), Q(0)), run)


def test_another_number_of_variables_is_no_witness():
    assert "X_2" in check(TEXT + "(declare-const X_2 Real)", (Q(1, 4), Q(1, 2)), run).refused
    assert "declares 4" in check(TEXT, (Q(1, 4), Q(1, 2), Q(0)), lambda x: run(x[:2])).refused


FORMULAS = st.recursive(
    st.builds(
        "({} {} {})".format,
        st.sampled_from(["<=", ">=", "<", ">"]),
        st.sampled_from(["Y_0", "Y_1", "(+ Y_0 Y_1)", "(- Y_0 (* 2 Y_1))"]),
        st.sampled_from(["0", "0.5", "Y_1", "-1.5"]),
    ),
    lambda inner: st.builds(
        "({} {})".format, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3).map(" ".join)
    ),
    max_leaves=8,
)


@given(
    st.lists(FORMULAS, min_size=1, max_size=3),
    st.tuples(*[st.sampled_from([Q(-2), Q(-1, 2), Q(0), Q(1, 2), Q(2)])] * 2),
)
def test_the_expanded_property_and_its_text_say_the_same(formulas, y):
    """Two readings written apart: the DNF of the parser, and the recursion of the judge."""
    text = "(declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)"
    text += "(assert (>= X_0 0)) (assert (<= X_0 1))" + "".join(f"(assert {f})" for f in formulas)
    accepted = check(text, (Q(1, 2),), lambda x: np.array(y, np.float32)).refused is None

    def holds(c):
        value = sum(coefficient * y[j] for j, coefficient in c.terms)
        return value < c.bound if c.strict else value <= c.bound

    expanded = any(all(map(holds, conjunction)) for case in parse(text).cases for conjunction in case.unsafe)
    assert accepted == expanded
