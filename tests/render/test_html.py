"""The page: whole without script or network, hostile names harmless, every figure with its words and numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from pipeline.render import render
from pipeline.render.svg import COLOURS
from pipeline.results import Report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page, with a check that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.ids.update(value for name, value in attrs if name == "id" and value)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style"} & set(self.open):
            self.words.append(data)


@pytest.fixture(params=["plain", "curve", "retrained", "nothing", "hostile"])
def report(request: pytest.FixtureRequest, make_report: Callable) -> Report:
    made: dict[str, Callable[[], Report]] = {
        "plain": lambda: make_report(gates=("certified=0.3", "class:1:natural=1")),
        "curve": lambda: make_report(("1/255", "2/255", "8/255"), classes=40, n=800),
        "retrained": lambda: make_report(retrained=True),
        "nothing": lambda: make_report(trained=False, attack=False, parity=None, per_class=(), warnings=()),
        "hostile": lambda: request.getfixturevalue("hostile_report"),
    }
    return made[request.param]()


def test_a_page_is_whole_and_asks_nothing_of_anyone(report: Report) -> None:
    text = render(report)
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "img", "link", "form", "base"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    links = {value for _, name, value in page.attributes if name in ("href", "src", "xlink:href", "action")}
    assert all(value and value.startswith("#") for value in links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert max(page.ids.values(), default=1) == 1
    targets = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    assert targets <= set(page.ids), "every reference within a drawing is kept"
    assert "default-src 'none'" in text


def test_every_figure_has_its_words_and_its_numbers(report: Report) -> None:
    page = Page(render(report))
    drawings = page.tags["svg"]
    assert drawings == page.tags["figure"] == page.tags["figcaption"] == page.tags["desc"]
    assert drawings >= 1
    assert page.tags["details"] >= drawings
    labelled = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-labelledby"]
    assert all(part in page.ids for value in labelled for part in (value or "").split())


def test_drawings_take_their_colours_from_the_page(report: Report) -> None:
    text = render(report)
    assert not any(stand_in in text for stand_in in COLOURS.values())
    assert "var(--certified)" in text


def test_the_same_report_gives_the_same_page(make_report: Callable) -> None:
    assert render(make_report(retrained=True)) == render(make_report(retrained=True))


def test_hostile_names_are_shown_and_do_nothing(hostile_report: Report) -> None:
    text = render(hostile_report)
    words = "".join(Page(text).words)
    assert "<script>alert(1)</script>" in words, "as text"
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert "A" * 1001 not in text
    assert len(text) < 300_000


def test_mathematics_in_a_name_is_not_typeset(make_report: Callable) -> None:
    base = make_report().result.data
    names = ("$\\frac{1}{$", "a_b^c", "$x$", "\\undefined", "{{ 7*7 }}", "ⅷ", "", " ", "&amp;", "<b>")
    text = render(make_report(data=base.model_copy(update={"class_names": names})))
    assert "{{ 7*7 }}" in text
    assert "49" not in Page(text).words
    assert "&amp;amp;" in text


def test_what_the_page_says(make_report: Callable) -> None:
    words = " ".join("".join(Page(render(make_report(gates=("certified=0.9",), retrained=True))).words).split())
    for expected in ("55.00 %", "220 of 400", "FAIL", "Before and after", "every sum", "shi2021", "SHA-256"):
        assert expected.lower() in words.lower()
    unattacked = " ".join(Page(render(make_report(attack=False))).words)
    assert "not attacked" in unattacked
