"""The page about a run: its sections in HTML, and the one file they become.

The page needs nothing but itself: style, script, plotly (compressed) and pictures are inside, and its policy forbids
any connection. Whatever comes from the run is escaped.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Callable
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from proard.common import html
from proard.common.errors import Stopped, UserError, reason
from proard.common.progress import Progress
from proard.common.version import __version__
from proard.report.run_contents import RunContents
from proard.report.sections import Sections


def page(contents: RunContents, quiet: bool = False) -> str:
    """The whole page about a run, as text; with a progress bar, unless ``quiet``."""
    writer = Sections(contents)
    sections: dict[str, tuple[str, Callable[[], str]]] = {
        "front": ("Accuracy against cost", writer.front),
        "students": ("Students", writer.students),
        "training": ("Training", writer.training),
        "sampling": ("What the sampler drew", writer.sampling),
        "images": ("Images under attack", writer.images),
        "radii": ("Accuracy by radius", writer.radii),
        "curves": ("Accuracy over eps and attack steps", writer.curves),
        "corruptions": ("Common corruptions", writer.corruptions),
        "predictor": ("The predictor of the search", writer.predictor),
        "latency": ("Latency", writer.latency),
        "energy": ("Energy and emissions", writer.energy),
        "setup": ("Configuration and environment", writer.setup),
    }
    bodies = []
    with Progress("report", len(sections), "sections", quiet=quiet) as progress:
        for name, (title, body) in sections.items():
            try:
                inside = body()
            except (UserError, Stopped, OSError) as error:
                inside = html.paragraph(reason(error), "missing")
            except (KeyError, TypeError, ValueError, IndexError) as error:  # of a row without a checksum
                inside = html.paragraph(f"a file of this run is damaged: {reason(error)}", "missing")
            labelled = f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>'
            bodies.append(f"{labelled}{inside}</section>")
            progress.advance()
    parts = {
        "title": escape(f"{contents.run.path.resolve().name} - proard"),
        "style": _file("page.css"),
        "head": writer.head(),
        "contents": "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items()),
        "sections": "\n".join(bodies),
        "data": script_json(writer.data),
        "plotly": packed_plotly(),
        "script": _file("page.js"),
    }
    return with_own_size(lambda size: Template(_file("page.html")).substitute(parts, footer=_footer(size)))


def with_own_size(render: Callable[[int], str]) -> str:
    """A text that states its own size in bytes: rendered again until what it says is true."""
    size = -1
    while (length := len((text := render(max(size, 0))).encode())) != size:
        size = length
    return text


def script_json(value: Any) -> str:
    """JSON for a script element: no text in it can end the element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def packed_plotly() -> str:
    """plotly's script, gzip in base64: a third of its size."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _file(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _footer(size: int) -> str:
    return (
        f"Made by proard {__version__} on {time.strftime('%Y-%m-%d %H:%M %Z')}. This page is one file of "
        f'<data id="size" value="{size}">{size / 1e6:.1f} MB ({size:,} bytes)</data> and needs no network; most of it '
        "is plotly (MIT licence), compressed."
    )
