"""The pictures of the documentation: writes docs/pictures/*.svg. python scripts/site/pictures.py"""

from __future__ import annotations

import itertools
from pathlib import Path

from drawing import Drawing

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def overview() -> Drawing:
    """From one training to many devices."""
    title = "Images train one supernet, once; from it, students of three sizes are cut for three devices."
    d = Drawing("overview", 720, 230, title)
    d.box(10, 85, 110, 60, "images,\nlabels")
    d.arrow((120, 115), (170, 115))
    d.text(145, 105, "once", "small")
    d.box(172, 30, 190, 170, fill="one")
    d.text(267, 54, "supernet", "bold")
    d.box(192, 68, 150, 118, fill="two")
    d.box(192, 104, 108, 82, fill="three")
    d.box(192, 142, 66, 44, fill="paper")
    d.text(267, 88, "all share its weights", "small")
    for y, fill, budget, device, words in (
        (30, "two", "1.5G", "server", "large student"),
        (95, "three", "100M", "phone", "middle student"),
        (160, "paper", "5M", "camera", "small student"),
    ):
        d.arrow((362, y + 20), (478, y + 20))
        d.text(419, y + 13, f"--flops {budget}", "mono")
        d.box(480, y, 130, 40, words, fill)
        d.arrow((610, y + 20), (646, y + 20))
        d.text(652, y + 25, device, anchor="start")
    return d


def slicing() -> Drawing:
    """The one rule by which students share weights."""
    title = (
        "Three panels. Width: a narrower layer is the leading block of a weight matrix. Depth: a shallower stage is "
        "its first blocks. Kernel: a smaller kernel is the centre of the largest."
    )
    d = Drawing("slicing", 720, 290, title)
    d.text(115, 24, "width", "bold")
    left, top, side, count = 25, 60, 22.5, 8
    for row in range(count):
        for column in range(count):
            fill = "three" if row < 3 and column < 4 else "two" if row < 5 and column < 6 else "one"
            d.cell(left + column * side, top + row * side, side, side, fill)
    d.text(left + 90, 50, "input channels", "small")
    d.shapes.append('<text transform="translate(16 150) rotate(-90)" text-anchor="middle" class="small">outputs</text>')
    d.text(left + 90, 264, "leading rows and columns", "small")
    d.text(left + 90, 282, "of one tensor", "small")

    d.text(360, 24, "depth", "bold")
    names = ("block 1", "block 2", "block 3", "block 4")
    for index, (name, fill) in enumerate(zip(names, ("three", "three", "two", "one"), strict=True)):
        y = 60 + index * 46
        d.box(300, y, 120, 34, name, fill)
        if index:
            d.arrow((360, y - 12), (360, y - 1))
    d.line((434, 60), (440, 60), (440, 140), (434, 140), style="soft")
    d.text(447, 105, "smallest", "small", "start")
    d.line((510, 60), (516, 60), (516, 232), (510, 232), style="soft")
    d.text(510, 250, "largest", "small")
    d.text(360, 264, "the first blocks", "small")
    d.text(360, 282, "of a stage", "small")

    d.text(630, 24, "kernel", "bold")
    for row in range(7):
        for column in range(7):
            ring = max(abs(row - 3), abs(column - 3))
            fill = "three" if ring <= 1 else "two" if ring <= 2 else "one"
            d.cell(553 + column * side, 60 + row * side, side, side, fill)
    d.text(632, 264, "the centre: 7 to 5 to 3", "small")
    d.text(632, 282, "(or a learned transform)", "small")
    return d


def threat() -> Drawing:
    """What an adversarial example is."""
    title = (
        "Around an image x lies a box of radius eps. The border between two classes cuts through a corner of it. An "
        "attack walks from x in steps along the gradient, is projected back into the box, and ends beyond the border."
    )
    d = Drawing("threat", 720, 310, title)
    d.curve("M 330 15 C 350 110 420 120 470 190 S 560 250 580 290", "line")
    d.text(250, 40, "still “bag”", "faint")
    d.text(560, 90, "now “shirt”", "warn")
    d.box(215, 65, 220, 200, fill="none", line="soft dash")
    d.text(325, 284, "all that the adversary may reach:", "small")
    d.text(325, 298, "no pixel moved by more than eps", "small")
    d.dot(325, 165, 6)
    d.text(310, 186, "x", "bold")
    points = ((325, 165), (352, 140), (388, 121), (418, 100))
    for before, after in itertools.pairwise(points):
        d.arrow(before, after, bad=True)
    d.dot(*points[-1], 6, "var(--warn)")
    d.text(412, 90, "x'", "bold warn")
    d.arrow((325, 218), (433, 218), style="soft")
    d.text(378, 212, "eps", "mono")
    d.text(600, 200, "border of the classes", "small", "middle")
    d.text(15, 90, "An attack is a search:", "", "start")
    d.text(
        15, 112, "1. gradient of the loss\n    by the image\n2. a step uphill\n3. back into the box", "small", "start"
    )
    d.text(15, 190, "Robust: no such x' is found.", "small", "start")
    return d


def distillation() -> Drawing:
    """RSLAD, the default objective."""
    title = (
        "The teacher sees the clean image and gives soft labels. An attack changes the image so that the student moves "
        "away from these soft labels. The student learns to give them on both images."
    )
    d = Drawing("distillation", 720, 270, title)
    d.box(15, 40, 110, 44, "image x")
    d.box(15, 178, 110, 44, "x' = x + d", "two")
    d.box(230, 22, 150, 80, "teacher T\n(frozen)", "one")
    d.box(230, 160, 150, 80, "student S", "three")
    d.box(490, 40, 190, 44, "soft labels T(x)", "one")
    d.box(490, 178, 190, 44, "S(x'), S(x)", "three")
    d.arrow((125, 62), (228, 62))
    d.arrow((125, 200), (228, 200))
    d.arrow((70, 84), (70, 176), style="line dash")
    d.text(78, 136, "attack", "small", "start")
    d.arrow((125, 72), (180, 110), (180, 180), (228, 180))
    d.arrow((380, 62), (488, 62))
    d.arrow((380, 200), (488, 200))
    d.arrow((585, 176), (585, 86))
    d.text(593, 122, "KL lowered by", "small", "start")
    d.text(593, 139, "the weights of S,", "small", "start")
    d.text(593, 156, "raised by d", "small warn", "start")
    d.arrow((490, 222), (440, 255), (70, 255), (70, 224), bad=True)
    d.text(255, 250, "gradient by the image alone", "small warn")
    return d


def step() -> Drawing:
    """One training step."""
    title = (
        "A batch goes once through the teacher. The sampler draws the largest, two random and the smallest student. "
        "Each is cut out, attacked, its loss differentiated, and its gradients added into the supernet. Then one "
        "optimizer step."
    )
    d = Drawing("step", 720, 350, title)
    d.box(15, 20, 120, 44, "batch")
    d.arrow((135, 42), (178, 42))
    d.box(180, 20, 190, 44, "teacher: logits, once", "one")
    d.text(15, 100, "sampler draws", "", "start")
    columns = ((150, "cut out"), (275, "attack"), (400, "loss, backward"), (525, "add back"))
    for y, name in ((112, "largest"), (158, "random"), (204, "random"), (250, "smallest")):
        d.text(15, y + 23, name, "", "start")
        d.line((90, y + 18), (150, y + 18), style="soft")
        for index, (x, _) in enumerate(columns):
            d.box(x, y, 100, 36, fill=("three", "two", "paper", "one")[index])
            if index:
                d.arrow((x - 25, y + 18), (x - 1, y + 18))
    for x, words in columns:
        for y in (112, 158, 204, 250):
            d.text(x + 50, y + 23, words, "small")
    d.arrow((370, 42), (450, 42), (450, 110), style="soft")
    d.line((640, 112), (648, 112), (648, 286), (640, 286), style="soft")
    d.text(684, 196, "gradients", "small")
    d.text(684, 212, "summed", "small")
    d.arrow((684, 222), (684, 315), (652, 315))
    d.box(500, 298, 150, 34, "one optimizer step", "paper")
    d.text(15, 312, "Every student is attacked by itself. One at a time is in memory.", "small", "start")
    return d


def phases() -> Drawing:
    """The schedule."""
    title = (
        "Four phases in time: teacher, width, depth, expand. In each the learning rate falls along a cosine. In the "
        "first only the largest network trains; in each later one, one more kind of decision varies."
    )
    d = Drawing("phases", 720, 220, title)
    ends = (20, 250, 395, 510, 700)
    names = ("teacher", "width", "depth", "expand")
    varies = ("largest alone", "width varies", "+ depth", "+ expansion")
    for index, (name, words) in enumerate(zip(names, varies, strict=True)):
        left, right = ends[index], ends[index + 1]
        high = 60 if index == 0 else 85
        middle = (left + right) / 2
        d.curve(f"M {left} {high} C {middle} {high} {middle} 140 {right - 4} 140")
        d.box(left, 150, right - left - 6, 52, f"{name}\n{words}", ("one", "three", "three", "three")[index])
        if index:
            d.line((left, 56), (left, 145), style="soft dash")
    d.text(24, 44, "learning rate", "small", "start")
    d.text(264, 44, "teacher frozen; students distil from it", "small", "start")
    return d


def front() -> Drawing:
    """Search, in a picture that shows no measurement."""
    title = (
        "A sketch: many students as dots, robust accuracy over cost. The best for their cost form the front. A "
        "vertical line is a budget; the chosen student is the most robust one to its left."
    )
    d = Drawing("front", 720, 300, title)
    d.arrow((60, 260), (700, 260))
    d.arrow((60, 260), (60, 20))
    d.text(690, 280, "multiply-adds", "small", "end")
    d.text(70, 28, "robust accuracy", "small", "start")
    best = ((110, 196), (170, 150), (250, 112), (345, 84), (470, 66), (620, 58))
    d.line(*best, style="line")
    for x, y in ((150, 218), (205, 190), (230, 170), (300, 152), (330, 205), (390, 130), (430, 168), (520, 112)):
        d.dot(x, y, 4.5, "var(--soft)")
    for x, y in ((560, 150), (600, 96), (480, 200), (270, 226)):
        d.dot(x, y, 4.5, "var(--soft)")
    for x, y in best:
        d.dot(x, y, 5.5, "var(--ink)")
    d.line((400, 40), (400, 260), style="line dash bad")
    d.text(408, 236, "budget", "small warn", "start")
    d.dot(345, 84, 10, "none")
    d.shapes.append('<circle cx="345" cy="84" r="11" class="line bad"/>')
    d.text(338, 62, "chosen", "small warn", "end")
    d.text(560, 46, "the front", "small")
    return d


PICTURES = (overview, slicing, threat, distillation, step, phases, front)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for draw in PICTURES:
        drawing = draw()
        (FOLDER / f"{drawing.name}.svg").write_text(drawing.svg(), encoding="utf-8")
