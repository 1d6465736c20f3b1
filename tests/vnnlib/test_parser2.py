"""VNN-LIB 2.0: what a query of one network says, against its words in 1.0, and against the judge's own reading."""

from __future__ import annotations

import dataclasses
from fractions import Fraction as Q

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.certify.counterexample import _unsafe
from pipeline.certify.witness import check
from pipeline.errors import InputRejected
from pipeline.vnnlib import parse

HEAD = """; a query
(vnnlib-version <2.0>)
(declare-network N
    (declare-input A float32 [1, 2] "first")
    (declare-input B float32 [])
    (declare-output Out float32 [2]))
"""
OLD = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "X_2", "Y_0", "Y_1"))
BOX = "(assert (<= 0 A[0,0] 1))(assert (and (>= A[0, 1] -1) (<= A[0,1] 2)))(assert (== B 0.5))"
OLD_BOX = (
    "(assert (and (>= X_0 0) (<= X_0 1)))(assert (and (>= X_1 -1) (<= X_1 2)))(assert (and (<= X_2 .5) (>= X_2 .5)))"
)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("(assert (<= Out[0] Out[1]))", "(assert (<= Y_0 Y_1))"),
        ("(assert (!= Out[0] 1))", "(assert (or (< Y_0 1) (> Y_0 1)))"),
        (
            "(assert (or (>= (+ Out[0] (* 2 Out[1])) 1) (<= A[0,0] 0.5)))",
            "(assert (or (>= (+ Y_0 (* 2 Y_1)) 1) (<= X_0 0.5)))",
        ),
    ],
)
def test_a_query_says_what_its_words_in_version_one_say(new, old):
    found, before = parse(HEAD + BOX + new), parse(OLD + OLD_BOX + old)
    assert [one.name for one in found.declared] == ["A", "B", "Out"]
    assert (found.declared[0].onnx_name, found.network) == ("first", "N")
    assert dataclasses.replace(found, declared=(), network=None, open_ends=before.open_ends) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD.replace("<2.0>", "<3.0>"), "this one is '<3.0>'"),
        (HEAD.replace("float32 []", "float16 []"), "B is float16"),
        (HEAD.replace("[1, 2]", "[1, -2]"), "a name, a type, a shape"),
        (HEAD.replace(" B ", " A "), "A is declared again"),
        (HEAD + "(declare-network M (declare-input C float32 [1]))", "of one network"),
        (HEAD.replace("(declare-output", '(declare-hidden H float32 [1] "h") (declare-output'), "`declare-hidden` is not read"),
        (HEAD.replace("(declare-output", "(equal-to M) (declare-output"), "`equal-to` is not read"),
        (HEAD + "(assert (<= A[0] 1))", "no entry of A, whose shape is [1, 2]"),
        (HEAD + "(assert (<= A[0,2] 1))", "no entry of A"),
        (HEAD + "(assert (<= C[0] 1))", "C is not"),
        (HEAD + "(assert (<= (* A[0,0] A[0,1]) 1))", "two variables are multiplied"),
        (HEAD + "(assert (<= A[0,0] 1))", "X_0 has no lower bound"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name_and_version(text, said):
    with pytest.raises(InputRejected, match=r"VNN-LIB 2\.0: ") as refused:
        parse(text)
    assert said in str(refused.value)


def test_constraints_over_several_inputs_exclude_boxes_and_are_left_out_of_others():
    never = parse(HEAD + BOX + "(assert (>= (+ A[0,0] A[0,1] B) 3.6))(assert (<= Out[0] 0))")
    assert (never.cases, never.vacuous) == ((), 1)
    some = parse(HEAD + BOX + "(assert (or (and (>= (+ A[0,0] A[0,1]) 2.9) (<= Out[0] 0)) (< (+ A[0,0] B) 0.5)))")
    assert (len(some.cases), some.vacuous, some.relaxed) == (1, 1, 2)
    assert some.contains_more


entry = st.sampled_from(["A[0,0]", "A[0,1]", "B", "Out[0]", "Out[1]"])
number = st.sampled_from(["-1", "0", "0.5", "1", "2"])
term = st.one_of(
    entry,
    number,
    st.tuples(entry, entry).map(lambda t: f"(+ {t[0]} {t[1]})"),
    st.tuples(number, entry).map(lambda t: f"(* {t[0]} {t[1]})"),
)
compared = st.tuples(st.sampled_from(["<=", ">=", "<", ">", "==", "!="]), term, term).map(
    lambda t: "({} {} {})".format(*t)
)
formula = st.recursive(
    compared,
    lambda f: st.tuples(st.sampled_from(["and", "or"]), f, f).map(lambda t: "({} {} {})".format(*t)),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(formula, st.lists(st.sampled_from([Q(0), Q(1, 2), Q(1)]), min_size=4, max_size=4))
def test_what_the_judge_accepts_lies_in_a_box_and_is_unsafe_there(said, numbers):
    """The set that is proved empty contains the one that was stated, as an independent reading has it."""
    text = HEAD + BOX + f"(assert {said})"
    x, y = (numbers[0], numbers[1], Q(1, 2)), [numbers[2], numbers[3]]
    accepted = check(text, x, lambda point: np.array(y, np.float32)).refused is None
    found = parse(text)
    inside = [c for c in found.cases if all(a <= v <= b for v, a, b in zip(x, c.lower, c.upper, strict=True))]
    unsafe = any(_unsafe(case, y) for case in inside)
    assert unsafe or not accepted
    assert accepted or not unsafe or found.contains_more


def test_entries_are_numbered_row_by_row():
    head = "(vnnlib-version <2.0>)(declare-network N (declare-input A real [2,3]) (declare-output B real [1]))"
    bounds = "".join(f"(assert (<= {3 * i + j} A[{i},{j}] {3 * i + j}.5))" for i in range(2) for j in range(3))
    (case,) = parse(f"{head}{bounds}(assert (<= B[0] 0))").cases
    assert case.lower == tuple(map(Q, range(6)))
