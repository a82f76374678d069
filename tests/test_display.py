"""What a notebook shows of architectures, spaces, supernets, fronts and students: well-formed, true, and inert."""

from __future__ import annotations

import copy
import pickle
import random
import re
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_families import SMALL_FAMILIES

from proard.commands.evaluate import Evaluation
from proard.commands.results import MeasuredStudent, Results
from proard.common.errors import UserError
from proard.common.registry import Registry
from proard.common.svg import Series, accuracy_svg, in_words, stages
from proard.evaluation.accuracy import Accuracy, Measurement, RobustAccuracy
from proard.search.front import Front, Point
from proard.search.selection import Label
from proard.supernet import Architecture, Decision, SearchSpace, Supernet, build_supernet, families
from proard.supernet.cost import Cost

HOSTILE = "</svg><script>hacked=1</script><img src=x onerror=alert(1)>\"'&"
FAMILIES = {name: families.build(name, {"num_classes": 10, "input_shape": (3, 32, 32)}) for name in SMALL_FAMILIES}


def parsed(thing: Any) -> ElementTree.Element:
    """What a notebook gets: one well-formed element without scripts, handlers or addresses, and not large."""
    text = thing._repr_html_()
    root = ElementTree.fromstring(text.replace("<br>", "<br/>"))
    for element in root.iter():
        assert element.tag in KNOWN, element.tag
        assert not [name for name in element.attrib if name.startswith("on") or name == "href"]
        assert element.tag == "img" or "src" not in element.attrib
    pictures = root.findall(".//img")
    assert all(picture.get("src", "").startswith(INLINE) for picture in pictures)
    assert len(text) < 20_000 + 30_000 * len(pictures)
    return root


INLINE = "data:image/svg+xml;base64,"


KNOWN = {
    "div",
    "p",
    "br",
    "svg",
    "title",
    "rect",
    "text",
    "img",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}


def words(root: ElementTree.Element) -> str:
    return " ".join(text.strip() for text in root.itertext() if text.strip())


def table(root: ElementTree.Element) -> list[dict[str, str]]:
    """The rows of the first table by the names of its columns."""
    first = next(root.iter("table"))
    names = [cell.text or "" for cell in first.iter("th")]
    return [
        dict(zip(names, [cell.text or "" for cell in row], strict=True))
        for row in first.iter("tr")
        if row[0].tag == "td"
    ]


class Drawing:
    """A plot that `accuracy_svg` made, as it is drawn: nothing in it comes from elsewhere."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)
        for element in self.root.iter():
            assert element.tag != f"{SVG}script"
            assert not [name for name in element.attrib if name.startswith("on")]
            assert (element.get(LINK) or "#").startswith("#")

    def dots(self, name: str) -> list[tuple[float, float]]:
        """Where the points of a series are, in pixels from the upper left corner."""
        return self._marks(f".//{SVG}g[@id='{name}']//{SVG}use")

    def ticks(self, axis: str) -> list[tuple[str, tuple[float, float]]]:
        """The labels of an axis, ``x`` or ``y``, and where they are."""
        found = []
        for group in self.root.iter(f"{SVG}g"):
            if (group.get("id") or "").startswith(f"{axis}tick_"):
                (text,) = ("".join(element.itertext()) for element in group.iter(f"{SVG}text"))
                found.append((text, self._marks(f".//{SVG}use", group)[0]))
        return found

    def _marks(self, path: str, root: ElementTree.Element | None = None) -> list[tuple[float, float]]:
        found = (self.root if root is None else root).findall(path)
        return [(float(mark.get("x", 0)), float(mark.get("y", 0))) for mark in found]


SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def bars(root: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [element for element in root.iter("rect") if element.get("class") == kind]


# ---------------------------------------------------------------------------------------------------------------------
# Architectures and spaces


@pytest.mark.parametrize("name", list(FAMILIES))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_architecture_is_drawn_beside_the_largest(name: str, seed: int) -> None:
    space = FAMILIES[name].space()
    architecture = space.sample(random.Random(seed))
    root = parsed(space.picture(architecture))
    drawn = [bar for of_stage in stages(space.decisions, architecture).values() for bar in of_stage]
    assert len(bars(root, "ghost")) == len(drawn)
    full = {float(ghost.get("height", 0)) for ghost in bars(root, "ghost")}
    assert len(full) == 1
    heights = [float(bar.get("height", 0)) / full.copy().pop() for bar in bars(root, "bar")]
    assert heights == pytest.approx([bar.width for bar in drawn if bar.present], abs=0.002)
    for line in in_words(architecture):
        assert line in words(root)
        assert line in str(architecture)
    assert [float(v) for line in in_words(architecture) for v in re.findall(r" (\d[\d.]*)", line)] == pytest.approx(
        [value for _, value in sorted(architecture.decisions, key=lambda pair: _order(architecture, pair[0]))]
    )


def _order(architecture: Architecture, name: str) -> tuple[int, int, int]:
    """Where `in_words` has a decision: by stage, then by what it is, then in the space's order."""
    names = list(architecture)

    def first(key: Any) -> int:
        return next(index for index, other in enumerate(names) if key(other) == key(name))

    def stage(key: str) -> str:
        place = key.rpartition(".")[0].split(".")[0]
        return "" if re.fullmatch(r"block\d+", place) else place

    return first(stage), first(lambda key: (stage(key), key.rpartition(".")[2])), names.index(name)


def test_an_architecture_is_a_value_that_its_space_draws() -> None:
    space = FAMILIES["resnet"].space()
    made = space.sample(random.Random(0))
    read = Architecture.from_json(made.to_json())
    assert made == read
    assert hash(made) == hash(read)
    assert repr(made) == repr(read)
    assert str(made) == str(read)
    for value in (made, read):
        assert not bars(parsed(value), "bar")
        assert words(parsed(value)) == " ".join(in_words(made))
    assert bars(parsed(space.picture(read)), "bar")
    assert repr(space.picture(read)) == str(made)
    assert space.picture(read)._repr_html_() == space.picture(made)._repr_html_()
    with pytest.raises(UserError, match=r"unknown decision 'stage9\.width'"):
        space.picture({"stage9.width": 1})
    for same in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert same == made
        assert same._repr_html_() == made._repr_html_()


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_space_says_what_it_has(name: str) -> None:
    space = FAMILIES[name].space()
    root = parsed(space)
    rows = table(root)
    assert sum(int(row["how many"]) for row in rows) == len(space.decisions)
    said = {(row["decision"], row["kind"], row["choices"]) for row in rows}
    for decision in space.decisions:
        choices = ", ".join(f"{choice:g}" for choice in decision.choices)
        assert (decision.name.rpartition(".")[2], decision.kind, choices) in said
    assert len(said) == len(rows)
    text = words(root)
    assert f"{len(space.decisions)} decisions ({', '.join(space.kinds)})" in text
    count = float(re.search(r"([\d,.e+]+) different students", text)[1].replace(",", ""))  # type: ignore[index]
    assert count == pytest.approx(space.size, rel=0.01)
    low, high, least, most = re.search(  # type: ignore[union-attr]
        r"(\S+) to (\S+) multiply-adds .*?, (\S+) to (\S+) parameters", text
    ).groups()
    ends = space.cost(space.smallest()), space.cost(space.largest())
    for said_cost, cost in zip((low, high), (end.multiply_adds for end in ends), strict=True):
        assert number(said_cost) == pytest.approx(cost, rel=0.01)
    for said_cost, cost in zip((least, most), (end.parameters for end in ends), strict=True):
        assert number(said_cost) == pytest.approx(cost, rel=0.01)


def number(text: str) -> float:
    units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    return float(text.rstrip("KMGT")) * units.get(text[-1], 1.0)


def test_a_space_of_one() -> None:
    space = FAMILIES["resnet"].space()
    assert "1 student" in words(parsed(space.only(space.smallest())))
    assert "different students" not in words(parsed(space.only(space.smallest())))
    empty = SearchSpace([], lambda _: Cost(500, 70, 1))
    assert "one fixed network, 500 multiply-adds" in words(parsed(empty))
    assert "70.0 parameters" in words(parsed(empty))
    parsed(empty.largest())
    parsed(empty.picture(empty.largest()))


def test_a_supernet_is_no_tree_of_modules() -> None:
    net = build_supernet("resnet", num_classes=7, input_shape=(1, 8, 8), widths=(8, 16), blocks=(1, 1))
    text = words(parsed(net))
    for said in (text, repr(net)):
        assert f"{sum(p.numel() for p in net.parameters()):,} parameters" in said
        assert "family resnet" in said
        assert "1 x 8 x 8" in said
        assert "7 classes" in said
    assert "widths: (8, 16)" in text
    assert "activation" not in text
    assert "\n" not in repr(net)
    assert table(parsed(net)) == table(parsed(net.space))
    assert "Conv2d" in repr(net.student(net.space.largest()))


def test_names_are_inert() -> None:
    decisions = [
        Decision(f"{HOSTILE}.{HOSTILE}", HOSTILE, (1, 2)),
        Decision("stage1.width", "width", (0.5, 1)),
        Decision(f"stage1.{HOSTILE}", "kernel", (3, 5)),
    ]
    space = SearchSpace(decisions, lambda _: Cost(1, 1, 1))
    for thing in (space, space.smallest(), space.picture(space.largest())):
        assert HOSTILE in words(parsed(thing))
        assert "<script" not in thing._repr_html_()
        assert "<img" not in thing._repr_html_()


# ---------------------------------------------------------------------------------------------------------------------
# Fronts and students

ATTACK = {"name": HOSTILE, "threat": {"norm": "linf", "eps": 0.1}}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 10**10), st.integers(0, 50), st.integers(0, 50)),
        min_size=1,
        max_size=40,
        unique_by=lambda row: row[0],
    )
)
def test_a_front_shows_what_was_measured(rows: list[tuple[int, int, int]]) -> None:
    points = tuple(
        Point(Architecture((("width", float(cost)),)), Label(clean / 50, robust / 50), Cost(cost, cost, 1))
        for cost, clean, robust in sorted(rows)
    )
    front = Front(points, 50, ATTACK, {})
    best = front.best(("multiply_adds",))
    root = parsed(front)
    text = words(root)
    for said in (text, repr(front)):
        assert f"{len(points)} students on 50 validation images" in said
        assert f"; {len(best)} on the front" in said
    shown = table(root)
    assert len(shown) == min(len(best), 12)
    for said_row, point in ((shown[0], best[0]), (shown[-1], best[-1])):
        assert number(said_row["multiply-adds"]) == pytest.approx(point.cost.multiply_adds, rel=0.01)
        assert said_row["robust %"] == f"{100 * point.label.robust:.1f}"
        assert said_row["clean %"] == f"{100 * point.label.clean:.1f}"
    (picture,) = root.iter("img")
    drawing = Drawing(b64decode(picture.get("src", "").removeprefix(INLINE)).decode())
    dots = {name: drawing.dots(name) for name in ("clean", "robust", "other students, robust")}
    assert [len(found) for found in dots.values()] == [len(best), len(best), len(points) - len(best)]
    # Cheaper is further left, more accurate is further up, and all is inside.
    xs = [x for x, _ in dots["robust"]]
    assert xs == sorted(xs)
    heights = {point.label.robust: y for point, (_, y) in zip(best, dots["robust"], strict=True)}
    assert [heights[r] for r in sorted(heights)] == sorted(heights.values(), reverse=True)
    _, _, width, height = map(float, drawing.root.get("viewBox", "").split())
    for x, y in (dot for found in dots.values() for dot in found):
        assert 0 < x < width
        assert 0 < y < height
    assert "<script" not in front._repr_html_()
    assert HOSTILE in text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 1e12), st.floats(0, 1)), min_size=1, max_size=5))
def test_axes_have_ticks_that_are_true(points: list[tuple[float, float]]) -> None:
    drawing = Drawing(accuracy_svg([Series("a", "red", points)], "cost"))
    dots, upwards, across = drawing.dots("a"), drawing.ticks("y"), drawing.ticks("x")
    assert 2 <= len(upwards) <= 8
    assert 1 <= len(across) <= 4
    (first, (_, low)), *_, (last, (_, high)) = upwards
    slope = (int(last) - int(first)) / (high - low)
    for (_, y), (_, accuracy) in zip(dots, points, strict=True):
        assert int(first) + slope * (y - low) == pytest.approx(100 * accuracy, abs=0.1)
    # A tick is where a point of that cost is: between those of lower and of higher cost.
    for text, (place, _) in across:
        assert all(
            x <= place + 0.1 for (x, _), (cost, _) in zip(dots, points, strict=True) if cost < 0.99 * number(text)
        )
        assert all(
            x >= place - 0.1 for (x, _), (cost, _) in zip(dots, points, strict=True) if cost > 1.01 * number(text)
        )


def card(**changes: Any) -> dict[str, Any]:
    """As `extract` writes it; only what is shown."""
    values = {
        "family": "resnet",
        "num_classes": 10,
        "input_shape": [1, 8, 8],
        "family_options": {"widths": [8, 16], "blocks": [1, 1]},
        "architecture": {},
        "multiply_adds": 123_456,
        "parameters": 7_890,
        "evaluation": {
            "split": "validation",
            "clean": {"correct": 90, "images": 100},
            "robust": [{"attack": {"name": "pgd20"}, "correct": 70, "images": 100}],
        },
    }
    family = families.build("resnet", {"num_classes": 10, "input_shape": (1, 8, 8), **values["family_options"]})
    return {**values, "architecture": dict(family.space().smallest()), **changes}


def test_a_student_says_costs_and_accuracies() -> None:
    student = MeasuredStudent(Path("runs") / "flops-1M", card())
    assert repr(student) == (
        "MeasuredStudent(flops-1M: 123K multiply-adds, 7.89K parameters, clean 90.0 %, pgd20 70.0 % "
        "on 100 validation images)"
    )
    root = parsed(student)
    low, high = Accuracy(70, 100).interval
    (row,) = table(root)
    assert row["student"] == "flops-1M"
    assert row["pgd20 %"] == f"70.0 ({100 * low:.1f}-{100 * high:.1f})"
    assert row["images"] == "100"
    assert "validation accuracy" in words(root)
    assert bars(root, "bar")
    assert student.architecture == Architecture(tuple(card()["architecture"].items()))

    of_another = MeasuredStudent(Path("a") / HOSTILE.replace("/", ""), card(family=HOSTILE))
    root = parsed(of_another)  # a family that is not known here: in words alone
    assert not bars(root, "bar")
    assert " ".join(in_words(student.architecture)) in words(root)


def test_students_of_different_attacks_share_a_table() -> None:
    measured = Measurement(Accuracy(9, 10), {"apgd-ce": RobustAccuracy(5, 10, 9)})
    evaluation = Evaluation(Path("s"), card(), measured, {}, 0, None)
    assert "apgd-ce 50.0 % on 10 test images" in repr(evaluation)
    both: Results[Any] = Results([MeasuredStudent(Path("t"), card()), evaluation])
    first, second = table(parsed(both))
    assert first["apgd-ce %"] == second["pgd20 %"] == ""
    assert first["pgd20 %"].startswith("70.0")
    assert second["apgd-ce %"].startswith("50.0")
    assert both == list(both)
    parsed(Results([]))


# ---------------------------------------------------------------------------------------------------------------------
# A cell that is run twice


def test_a_class_that_is_defined_again_replaces_the_old_one() -> None:
    registry: Registry[Any] = Registry("thing")

    def cell() -> Any:
        @registry.register("it")
        @dataclass(frozen=True)
        class It:
            size: int = 1

        return It

    old, new = cell(), cell()
    assert old is not new
    assert type(registry.build("it", {"size": 2})) is new
    assert registry.name_of(old()) == registry.name_of(new()) == "it"

    class Other: ...

    with pytest.raises(ValueError, match="thing 'it' is registered already"):
        registry.register("it")(Other)


def test_a_supernet_of_a_family_that_is_not_registered() -> None:
    class Unregistered(type(FAMILIES["resnet"])):  # type: ignore[misc]
        pass

    family = Unregistered(3, (1, 8, 8), widths=(8,), blocks=(1,))
    assert "Unregistered" in repr(Supernet(family))
