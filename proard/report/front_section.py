"""The front, and the choice of a student by budget."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from proard.common import html
from proard.common.errors import UserError
from proard.common.svg import stages_svg
from proard.common.units import short
from proard.report.figures import front_plot, scored
from proard.report.plots import Plots, percent
from proard.report.run_contents import BUDGETS, COSTS, RunContents, Student, best_within
from proard.supernet import Decision


def choice(contents: RunContents, plots: Plots) -> tuple[str, dict[str, Any]]:
    """The section in HTML, and what the page's script needs to choose; its figures are added to ``plots``.

    Raises:
        UserError: there is nothing to choose from.
    """
    if not contents.is_supernet:
        raise UserError("this run trained one network, so there is nothing to choose")
    candidates, searched = contents.candidates
    best = {cost: found for cost in COSTS if (found := best_within(candidates, cost))}
    drawn = {cost: front_plot(candidates, contents.students, cost, searched) for cost in best}
    for cost, plot in drawn.items():
        plots.keep(plot, f"front-{cost}")
    if searched:
        how = (
            "These students were measured by 'proard search'. 'proard extract' takes the same one wherever a "
            "measured student uses at least half of the limit; else it measures some more."
        )
    else:
        how = (
            f"No front yet: these are the few students that were validated or extracted; 'proard search --run "
            f"{contents.run.path}' measures many. 'proard extract' measures some before it chooses."
        )
    first, plot = next(iter(drawn.items()))
    tables = (html.details(f"Best students by {COSTS[c]}", html.table(p.head, p.rows)) for c, p in drawn.items())
    control = Template((files(__package__) / "budget.html").read_text(encoding="utf-8"))
    inside = (
        html.paragraph(f"Costs are per image; 1 multiply-add = 1 FLOP. {how}")
        + control.substitute(options="".join(f'<option value="{cost}">{COSTS[cost]}</option>' for cost in best))
        + plots.figure(plot, f"front-{first}", "front-plot")
        + "".join(tables)
    )
    return inside, _data(contents, candidates, best)


def _data(
    contents: RunContents, candidates: Sequence[Student], best: Mapping[str, Sequence[Student]]
) -> dict[str, Any]:
    """The students that some budget leads to, and for each cost from which limit on it leads to which of them."""
    students = list({id(student): student for found in best.values() for student in found}.values())
    place = {id(student): number for number, student in enumerate(students)}
    costs = {cost: sorted(s.costs[cost] for s in candidates if s.validation and cost in s.costs) for cost in best}
    tested = {student.key: student for student in contents.students if not student.alone}
    return {
        "students": [_row(student, tested.get(student.key), contents.decisions) for student in students],
        "steps": {
            cost: [[student.costs[cost], place[id(student)]] for student in found] for cost, found in best.items()
        },
        "run": shlex.quote(str(contents.run.path)),
        "options": BUDGETS,
        "nouns": COSTS,
        "ranges": {cost: [values[0], values[-1]] for cost, values in costs.items()},
        "initial": {cost: short(values[len(values) // 2], up=True) for cost, values in costs.items()},
    }


def _row(student: Student, extracted: Student | None, decisions: Sequence[Decision]) -> dict[str, Any]:
    """What the page shows of a student that was chosen."""
    assert student.validation is not None
    return {
        "name": student.name,
        "costs": {cost: student.costs[cost] for cost in COSTS if cost in student.costs},
        "robust": student.validation.robust,
        "clean": student.validation.clean,
        "facts": _facts(student, extracted),
        "picture": stages_svg(decisions, student.architecture) if student.architecture and decisions else "",
    }


def _facts(student: Student, extracted: Student | None) -> list[tuple[str, str]]:
    """Terms and values that the page shows of a chosen student."""
    rows = [(noun, short(student.costs[cost])) for cost, noun in COSTS.items() if cost in student.costs]
    rows += [
        (noun, f"{short(student.costs[name])}B, float32")
        for name, noun in (("peak_activation_bytes", "peak activations"), ("file_bytes", "weight file"))
        if name in student.costs
    ]
    if scores := student.validation:
        rows.append(
            ("validation", f"clean {percent(scores.clean)} %, robust {percent(scores.robust)} % ({scores.where})")
        )
    if extracted and (scores := extracted.test):
        accuracies = f"clean {scored(scores, 'clean')} %, robust {scored(scores, 'robust')} %"
        rows.append(("test", f"{accuracies} ({scores.where}; as {extracted.name})"))
    return rows
