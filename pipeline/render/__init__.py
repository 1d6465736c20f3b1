"""A report shown: in the terminal, as a page, in Markdown, for those who count tests or sign statements.

Everything is drawn from a report alone, but for pictures of samples, which it does not hold; nothing here measures, judges or
writes a file.
"""

from __future__ import annotations

from pipeline.render.advice import headline, next_step
from pipeline.render.html import render
from pipeline.render.intoto import signing, statement
from pipeline.render.junit import junit
from pipeline.render.markdown import markdown, prose
from pipeline.render.terminal import before_after, panel
from pipeline.render.thumbnails import Pictures, thumbnails

__all__ = [
    "Pictures",
    "before_after",
    "headline",
    "junit",
    "markdown",
    "next_step",
    "panel",
    "prose",
    "render",
    "signing",
    "statement",
    "thumbnails",
]
