"""The page in a real browser: silent, with its figures, as wide as the screen and no wider, light and dark."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.render import Pictures, headline, render, thumbnails
from pipeline.results import Report
from tests.render.browser import PROGRAM, Browser

pytestmark = pytest.mark.skipif(PROGRAM is None or os.name != "posix", reason="no Chromium")

# What overflows the page, or is wider than the box that should scroll it.
OVERFLOW = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg') && \
e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className)"
DRAWN = "[...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().height > 60 && \
s.querySelectorAll('path, use').length > 3).length"
LOADED = "[...document.images].filter(i => i.naturalWidth === 96 && i.getBoundingClientRect().width > 60).length"
# The contrast of WCAG 2.2, 1.4.3, of every element with text of its own, against the page.
CONTRAST = """(() => {
  const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const page = light(rgb(getComputedStyle(document.body).backgroundColor));
  const seen = [...document.querySelectorAll('main *, header *, footer *')].filter(e => !e.closest('svg') &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
  return Math.min(...seen.map(e => light(rgb(getComputedStyle(e).color)))
    .map(l => (Math.max(l, page) + 0.05) / (Math.min(l, page) + 0.05)));
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def pictures(report: Report) -> Pictures:
    """Of all samples, in colours that no page has."""
    index = np.arange(report.result.data.n_total)
    images = np.random.default_rng(0).random((len(index), 3, 20, 32), np.float32)
    return thumbnails(report.result.levels, index, images, value_range=(0.0, 1.0), layout="NCHW")


@pytest.fixture(params=["curve", "retrained", "hostile"])
def page(request: pytest.FixtureRequest, make_report: Callable, tmp_path: Path) -> tuple[Report, Path]:
    report = {
        "curve": lambda: make_report(("1/255", "2/255", "8/255"), classes=40, n=800, gates=("certified@8/255=0.3",)),
        "retrained": lambda: make_report(retrained=True),
        "hostile": lambda: request.getfixturevalue("hostile_report"),
    }[request.param]()
    path = tmp_path / "report.html"
    path.write_text(render(report, pictures=pictures(report)), encoding="utf-8")
    return report, path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_silent_whole_and_fits(browser: Browser, page: tuple[Report, Path], width: int, dark: bool) -> None:
    report, path = page
    browser.open(path, width=width, dark=dark)
    assert browser.complaints == []
    assert browser.value(LOADED) == len(report.result.levels[-1].edge)
    figures = browser.value("document.querySelectorAll('figure').length")
    assert browser.value(DRAWN) == figures >= 3
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OVERFLOW) in ([], None)
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark
    assert browser.value(CONTRAST) >= 4.5
    assert browser.value("document.querySelector('h1').textContent") == headline(report)
    assert browser.screenshot(whole=False).startswith(b"\x89PNG")


def test_the_check_can_fail(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    wide = "<div style='width:2000px'>x</div><script>console.error('no')</script><p style='color:#ccc'>faint</p>"
    path.write_text(f"<body style='background:#fff'><main>{wide}</main><img src='http://127.0.0.1:9/a.png'></body>")
    browser.open(path, width=1280, dark=False)
    assert len(browser.complaints) >= 2
    assert browser.value("document.documentElement.scrollWidth") > 1280
    assert browser.value(OVERFLOW) == ["DIV."]
    assert browser.value(CONTRAST) < 4.5
