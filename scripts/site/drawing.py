"""A few shapes in SVG, in colours that follow the reader's theme."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

# In a repository browser the picture is a file of its own and follows the system; in the site, its theme decides.
STYLE = """
.d{--ink:#263238;--soft:#78909c;--paper:#fff;--one:#b2dfdb;--two:#ffe0b2;--three:#bbdefb;--warn:#c62828}
@media(prefers-color-scheme:dark){.d{--ink:#e0e6ea;--soft:#90a4ae;--paper:#1f2329;--one:#1f5f58;--two:#7a4f1d;--three:#1f4e79;--warn:#ff8a80}}
.d text{font:14px system-ui,sans-serif;fill:var(--ink)} .d .small{font-size:12px} .d .bold{font-weight:600}
.d .mono{font-family:ui-monospace,monospace;font-size:12.5px} .d .warn{fill:var(--warn)} .d .faint{fill:var(--soft)}
.d .line{stroke:var(--ink);stroke-width:1.5;fill:none} .d .soft{stroke:var(--soft);stroke-width:1.2;fill:none}
.d .dash{stroke-dasharray:5 4} .d .bad{stroke:var(--warn)} .d .head{fill:var(--ink)} .d .badhead{fill:var(--warn)}
.d .paper{fill:var(--paper)} .d .one{fill:var(--one)} .d .two{fill:var(--two)} .d .three{fill:var(--three)}
.d .none{fill:none}
"""


@dataclass
class Drawing:
    """Shapes on a sheet.

    Attributes:
        name: of the picture; keeps its marks apart from those of other pictures on a page.
        width, height: of the sheet.
        title: what it shows, for those who do not see it.
    """

    name: str
    width: int
    height: int
    title: str
    shapes: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> None:
        """Lines of text; the first line's base is at y."""
        for index, line in enumerate(words.split("\n")):
            size = 16 if "small" in style else 18
            at = f'x="{x:g}" y="{y + index * size:g}"'
            self.shapes.append(f'<text {at} text-anchor="{anchor}" class="{style}">{escape(line)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, words: str = "", fill: str = "paper", line: str = "line"
    ) -> None:
        """A rectangle with text in its middle."""
        at = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.shapes.append(f'<rect {at} rx="5" class="{line} {fill}" style="fill:{colour(fill)}"/>')
        if words:
            lines = words.count("\n")
            self.text(x + width / 2, y + height / 2 + 5 - 9 * lines, words)

    def cell(self, x: float, y: float, width: float, height: float, fill: str = "none", line: str = "soft") -> None:
        """A rectangle with sharp corners."""
        at = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.shapes.append(f'<rect {at} class="{line}" style="fill:{colour(fill)}"/>')

    def arrow(self, *points: tuple[float, float], style: str = "line", bad: bool = False) -> None:
        """A line through points, with a head at the last."""
        mark = "badhead" if bad else "head"
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        style = f"{style} bad" if bad else style
        self.shapes.append(f'<polyline points="{path}" class="{style}" marker-end="url(#{self.name}-{mark})"/>')

    def line(self, *points: tuple[float, float], style: str = "line") -> None:
        """A line through points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.shapes.append(f'<polyline points="{path}" class="{style}"/>')

    def curve(self, path: str, style: str = "line") -> None:
        """A path in SVG's language."""
        self.shapes.append(f'<path d="{path}" class="{style}"/>')

    def dot(self, x: float, y: float, radius: float = 5, fill: str = "var(--ink)") -> None:
        """A filled circle."""
        self.shapes.append(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" style="fill:{fill}"/>')

    def svg(self) -> str:
        """The picture as a file."""
        marks = "".join(
            f'<marker id="{self.name}-{mark}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 10 5 0 10z" class="{mark}"/></marker>'
            for mark in ("head", "badhead")
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" class="d" role="img" '
            f'aria-labelledby="{self.name}-title">\n<title id="{self.name}-title">{escape(self.title)}</title>\n'
            f"<style>{' '.join(STYLE.split())}</style>\n<defs>{marks}</defs>\n" + "\n".join(self.shapes) + "\n</svg>\n"
        )


def colour(fill: str) -> str:
    """A fill by its name."""
    return "none" if fill == "none" else f"var(--{fill})"
