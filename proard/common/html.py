"""Small pieces of HTML, for the report's page and for notebooks; all text that comes in is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, in HTML, of a class of the style."""
    of_class = f' class="{escape(kind)}"' if kind else ""
    return f"<p{of_class}>{escape(text)}</p>"


def block(*parts: str) -> str:
    """What a notebook shows of one thing; the parts are HTML, and may be empty."""
    return f'<div class="proard" style="margin:.3em 0">{"".join(parts)}</div>'


def lines(texts: Iterable[str]) -> str:
    """Texts below each other, small and pale."""
    return f'<div style="font-size:90%;line-height:1.4;opacity:.8">{"<br>".join(map(escape, texts))}</div>'


def picture(svg: str, text: str) -> str:
    """A drawing that keeps its styles and names to itself, with a text for those who do not see it."""
    source = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{escape(text)}" src="data:image/svg+xml;base64,{source}" style="max-width:100%"/>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A list of terms and their values."""
    body = "".join(f"<dt>{escape(term)}</dt><dd>{escape(value)}</dd>" for term, value in rows)
    return f'<dl class="facts">{body}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself where it is too wide."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(", ".join(head))}">'
        f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(title: str, inside: str) -> str:
    """Something that opens on request; ``inside`` is HTML."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def preformatted(text: str) -> str:
    """A text that keeps its line ends."""
    return f"<pre>{escape(text)}</pre>"
