"""Pictures: the stages of a student as SVG, and images as PNG, both as text that a page can hold."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
import torch
from PIL import Image

from proard.supernet import Decision

HEIGHT, WIDTH, LEAST, GAP, GROUP_GAP = 44.0, 15.0, 3.0, 3.0, 10.0  # pixels; a bar of the largest student is 15 x 44
LINE = 11.0  # of text
CHARACTER = 5.6
LARGEST_SIDE = 128  # of an embedded image, in pixels


@dataclass
class Bar:
    """A block, or another part with a width of its own.

    Attributes:
        width: relative to the largest student's, in (0, 1].
        expand: likewise.
        present: whether the student has it.
        notes: the values of all other decisions, such as a kernel's side.
    """

    width: float = 1.0
    expand: float = 1.0
    present: bool = True
    notes: list[str] = field(default_factory=list)


def stages(decisions: Sequence[Decision], architecture: Mapping[str, float]) -> dict[str, list[Bar]]:
    """The parts of a student by stage, in the order of the network; also those that only the largest one has.

    Works for any family: a decision's name says where it is (``stage1.block2.expand``) and its kind what it does. A
    width counts for everything below its place; a depth shows in the blocks that are present.
    """
    places: dict[str, list[Decision]] = {}
    for decision in decisions:
        places.setdefault(decision.name.rpartition(".")[0], []).append(decision)
    widths = {place: decision for place, group in places.items() for decision in group if decision.kind == "width"}
    found: dict[str, list[Bar]] = {}
    for place, group in places.items():
        own = [decision for decision in group if decision.kind != "depth"]
        inside = any(other != place and _within(other, place) for other in places)
        if not own or (inside and all(decision.kind == "width" for decision in own)):
            continue
        bar = Bar(present=all(decision.name in architecture for decision in own))
        nearest = [widths[above] for above in _upwards(place) if above in widths]
        if nearest and nearest[0].name in architecture:
            bar.width = architecture[nearest[0].name] / nearest[0].choices[-1]
        for decision in own:
            if decision.kind == "width" or decision.name not in architecture:
                continue
            if decision.kind == "expand":
                bar.expand = architecture[decision.name] / decision.choices[-1]
            else:
                bar.notes.append(f"{architecture[decision.name]:g}")
        found.setdefault(_stage(place), []).append(bar)
    return found


def in_words(architecture: Mapping[str, float]) -> list[str]:
    """A line for every stage, such as ``stage1: width 0.5, depth 1, expand 0.5 1``."""
    lines: dict[str, dict[str, list[str]]] = {}
    for name, value in architecture.items():
        place, _, what = name.rpartition(".")
        lines.setdefault(_stage(place), {}).setdefault(what, []).append(f"{value:g}")
    return [
        f"{stage or 'network'}: " + ", ".join(f"{what} {' '.join(values)}" for what, values in parts.items())
        for stage, parts in lines.items()
    ]


def stages_svg(decisions: Sequence[Decision], architecture: Mapping[str, float]) -> str:
    """A bar for every block: its height is the width, its breadth the expansion, the outline the largest student.

    Kernel sides, heads and the like are written below; colours come from the page's style.
    """
    shapes: list[str] = []
    labels: list[tuple[float, str]] = []
    x, most_notes = GAP, 0
    for stage, bars in stages(decisions, architecture).items():
        start, label = x, stage or "blocks"
        for bar in bars:
            shapes.append(_rectangle("ghost", x, WIDTH, HEIGHT))
            if bar.present:
                width = max(bar.expand * WIDTH, LEAST)
                shapes.append(_rectangle("bar", x + (WIDTH - width) / 2, width, max(bar.width * HEIGHT, LEAST)))
            shapes += [_text("note", x + WIDTH / 2, line, note) for line, note in enumerate(bar.notes)]
            most_notes = max(most_notes, len(bar.notes))
            x += WIDTH + GAP
        breadth = max(x - GAP - start, CHARACTER * len(label))
        labels.append((start + breadth / 2, label))
        x = start + breadth + GROUP_GAP
    shapes += [_text("stage", middle, most_notes, label) for middle, label in labels]
    width, height = x, 1 + HEIGHT + LINE * (most_notes + 1) + 4
    title = escape("; ".join(in_words(architecture)))
    return (
        f'<svg class="stages" role="img" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px">'
        f"<title>{title}</title>{''.join(shapes)}</svg>"
    )


def _rectangle(kind: str, left: float, width: float, height: float) -> str:
    """On the common ground line."""
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{1 + HEIGHT - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def _text(kind: str, middle: float, line: int, text: str) -> str:
    """In a line below the ground line, counted from 0."""
    return f'<text class="{kind}" x="{middle:.1f}" y="{1 + HEIGHT + LINE * (line + 1):.1f}">{escape(text)}</text>'


def _within(place: str, other: str) -> bool:
    """Whether a place is ``other``, or below it."""
    return not other or place == other or place.startswith(f"{other}.")


def _upwards(place: str) -> list[str]:
    """The place and all above it, nearest first."""
    parts = place.split(".") if place else []
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]


def _stage(place: str) -> str:
    """The stage that a place is in; empty for blocks of a network without stages."""
    first = place.split(".")[0]
    return "" if re.fullmatch(r"block\d+", first) else first


# ---------------------------------------------------------------------------------------------------------------------
# Images


def png(image: torch.Tensor) -> str:
    """A data URI of an image (C, H, W) in [0, 1], of 1 or 3 channels (of others, the first is shown)."""
    values = image.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
    array = np.moveaxis(values, 0, 2) if len(values) == 3 else values[0]
    picture = Image.fromarray(np.ascontiguousarray(array))
    if max(picture.size) > LARGEST_SIDE:
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
