"""The parser: what a file means, and what it refuses, each with the line and the rule."""

from __future__ import annotations

import gzip
from fractions import Fraction as Q

import pytest

from pipeline.errors import InputRejected
from pipeline.limits import Limits
from pipeline.vnnlib import Constraint, parse, read, source


def declared(inputs: int, outputs: int) -> str:
    return "".join(f"(declare-const X_{i} Real)\n" for i in range(inputs)) + "".join(
        f"(declare-const Y_{j} Real)\n" for j in range(outputs)
    )


BOX = "(assert (>= X_0 -1.5)) (assert (<= X_0 2e-1))\n"


def one(text: str, *, outputs: int = 2):
    """The single case of a property on one input."""
    (case,) = parse(declared(1, outputs) + BOX + text).cases
    return case


def at_most(bound, *terms, strict=False):
    return Constraint(tuple((j, Q(c)) for j, c in terms), Q(bound), strict)


def test_numbers_are_exact():
    case = one("(assert (<= Y_0 0.1))")
    assert (case.lower, case.upper) == ((Q(-3, 2),), (Q(1, 5),))
    assert case.unsafe == ((at_most(Q(1, 10), (0, 1)),),)


@pytest.mark.parametrize(
    ("formula", "constraint"),
    [
        ("(<= Y_0 Y_1)", at_most(0, (0, 1), (1, -1))),
        ("(>= Y_0 3)", at_most(-3, (0, -1))),
        ("(< Y_0 3)", at_most(3, (0, 1), strict=True)),
        ("(> Y_0 3)", at_most(-3, (0, -1), strict=True)),
        ("(<= (+ Y_0 (* 2 Y_1) 1) (- 4 Y_0))", at_most(3, (0, 2), (1, 2))),
        ("(<= (- Y_0) (* -1.5 2))", at_most(-3, (0, -1))),
        ("(>= (- Y_1 Y_0 1) 0)", at_most(-1, (0, 1), (1, -1))),
    ],
)
def test_linear_constraints(formula, constraint):
    assert one(f"(assert {formula})").unsafe == ((constraint,),)


def test_several_asserts_are_a_conjunction_wherever_they_stand():
    """The trap of VNN-LIB: an assert after an `or` cuts every disjunct, it is not one more of them."""
    before = one("(assert (<= Y_1 7)) (assert (or (<= Y_0 1) (<= Y_0 2)))")
    after = one("(assert (or (<= Y_0 1) (<= Y_0 2))) (assert (<= Y_1 7))")
    both = {frozenset({at_most(1, (0, 1)), at_most(7, (1, 1))}), frozenset({at_most(2, (0, 1)), at_most(7, (1, 1))})}
    assert {frozenset(c) for c in before.unsafe} == {frozenset(c) for c in after.unsafe} == both


def test_nested_connectives_multiply_out():
    case = one("(assert (and (or (<= Y_0 1) (and (<= Y_0 2) (<= Y_1 2))) (or (<= Y_1 3) (<= Y_1 4))))")
    assert sorted(len(c) for c in case.unsafe) == [2, 2, 3, 3]


def test_disjuncts_over_inputs_become_cases_and_the_same_box_is_one_case():
    text = (
        declared(1, 1)
        + "(assert (or "
        + "".join(f"(and (>= X_0 {a}) (<= X_0 {a + 1}) ({sign} Y_0 0))" for a in (0, 5) for sign in ("<=", ">="))
    )
    unsafe_set = parse(text + "))")
    assert [(c.lower, c.upper, len(c.unsafe)) for c in unsafe_set.cases] == [((0,), (1,), 2), ((5,), (6,), 2)]


def test_bounds_meet():
    case = one("(assert (<= X_0 0.1)) (assert (<= X_0 9)) (assert (<= Y_0 0)) (assert (<= (* 2 X_0) 0.1))")
    assert case.upper == (Q(1, 20),)


def test_strict_bounds_on_inputs_close_their_boxes_and_say_so():
    assert not parse(declared(1, 1) + BOX + "(assert (< Y_0 0))").open_ends
    unsafe_set = parse(declared(1, 1) + BOX + "(assert (< X_0 0.1)) (assert (< Y_0 0))")
    assert unsafe_set.open_ends
    assert unsafe_set.cases[0].upper == (Q(1, 10),)


def test_an_empty_box_is_vacuous_and_counted():
    text = "(assert (or (and (>= X_0 3) (<= Y_0 0)) (<= Y_0 1)))"
    unsafe_set = parse(declared(1, 1) + BOX + text)
    assert (len(unsafe_set.cases), unsafe_set.vacuous) == (1, 1)
    assert parse(declared(1, 1) + BOX + "(assert (>= X_0 3)) (assert (<= Y_0 0))").cases == ()
    assert parse(declared(1, 1) + BOX + "(assert (<= 1 0)) (assert (<= Y_0 0))").vacuous == 1


def test_comments_end_with_their_line_alone():
    text = (
        declared(1, 1)
        + "; (assert (<= Y_0 9))\u2028(assert (<= Y_0 9))\n"
        + BOX
        + "(assert (<= Y_0 1)) ; )\r(assert (<= Y_0 2))"
    )
    (case,) = parse(text).cases
    assert case.unsafe == ((at_most(1, (0, 1)), at_most(2, (0, 1))),)


@pytest.mark.parametrize(
    "text",
    [
        "(declare-network N (declare-input X Real [1, 2]) (declare-output Y Real [1]))",
        "(declare-network N (declare-hidden H Real [1, 2]))",
    ],
)
def test_a_file_of_version_two_says_its_version_first(text):
    with pytest.raises(InputRejected, match=r"begins with `\(vnnlib-version <2\.0>\)`"):
        parse(text)


GOOD = declared(1, 1) + BOX


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "declares no X"),
        (declared(1, 0) + BOX, "declares no Y"),
        (GOOD + "(assert (<= Y_0 1)", "truncated"),
        (GOOD + "(assert (<= Y_0 1)))", "closes none"),
        (GOOD + "Y_0", "outside"),
        (GOOD + "(assert " + "(and " * 200 + "(<= Y_0 1)" + ")" * 201, "deep"),
        (GOOD + "(assert (<= Z 1))", "'Z'"),
        (GOOD + "(assert (<= Y_1 1))", "declared before"),
        (GOOD + "(assert (<= Y_0 nan))", "'nan'"),
        (GOOD + "(assert (<= Y_0 1/3))", "'1/3'"),
        (GOOD + "(assert (<= Y_0 1e999999999))", "1e999999999"),
        (GOOD + "(assert (<= Y_0 1e999))", "1e300"),
        (GOOD + "(assert (<= Y_0 ٣))", "a number"),
        (GOOD + "(assert (<= Y_0))", "compares two"),
        (GOOD + "(assert (= Y_0 1))", "'='"),
        (GOOD + "(assert (not (<= Y_0 1)))", "'not'"),
        (GOOD + "(assert (or))", "joins none"),
        (GOOD + "(assert ())", "begins with"),
        (GOOD + "(assert (<= (* Y_0 Y_0) 1))", "linear"),
        (GOOD + "(assert (<= X_0 Y_0))", "joins both"),
        (GOOD + "(assert (<= (and (<= Y_0 1)) 1))", "formula"),
        (GOOD + "(assert Y_0)", "formula"),
        (GOOD + "(declare-const X_0 Real)", "declared again"),
        (GOOD + "(declare-const X_5 Real)", "X_1 is not"),
        (GOOD + "(declare-const X_00 Real)", "X_00"),
        (GOOD + "(declare-const X_99999999 Real)", "1048576"),
        (GOOD + "(declare-const X_1 Int)", "declare-const X_i Real"),
        (GOOD + "(check-sat)", "check-sat"),
        (declared(2, 1) + "(assert (<= X_0 X_1))", "several inputs"),
        (declared(2, 1) + BOX + "(assert (<= Y_0 1))", "X_1 has no lower bound"),
        (declared(1, 1) + "(assert (>= X_0 0)) (assert (or (<= X_0 1) (<= Y_0 1)))", "X_0 has no upper bound"),
        (declared(1, 1) + "(assert (>= X_0 0)) (assert (<= X_0 1e39))", "float32"),
        (declared(1, 1), "asserts nothing"),
        (GOOD + "(assert (and " + "(or (<= Y_0 1) (<= Y_0 2))" * 40 + "))", "at most"),
        (GOOD + "(assert (or (<= Y_0 1) (<= Y_0 2)))" * 40, "too large"),
        (GOOD + "(assert (<= Y_0 (* " + "1e200 " * 300 + ")))", "bits"),
    ],
)
def test_refusals_name_the_rule(text, message):
    with pytest.raises(InputRejected) as raised:
        parse(text)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 400


def test_files_plain_gzipped_and_hostile(tmp_path, monkeypatch):
    plain, zipped = tmp_path / "p.vnnlib", tmp_path / "p.vnnlib.gz"
    plain.write_text(GOOD)
    zipped.write_bytes(gzip.compress(GOOD.encode()))
    assert read(plain) == read(zipped) == GOOD
    zipped.write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(InputRejected, match="cannot be read"):
        read(zipped)
    plain.write_bytes(b"\xff\xfe")
    with pytest.raises(InputRejected, match="UTF-8"):
        read(plain)
    with pytest.raises(InputRejected, match="cannot be read"):
        read(tmp_path / "absent")
    monkeypatch.setattr(source, "limits", lambda: Limits(property_bytes=1000))
    zipped.write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(InputRejected, match="at most 1000 bytes"):
        read(zipped)
