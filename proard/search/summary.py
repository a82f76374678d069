"""What a search found, as lines of text of at most 80 columns, and as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from proard.budgets import short
from proard.search.command import SearchResult
from proard.search.front import HEAD, MOST_ROWS, Front, table_rows
from proard.search.predictor import TARGETS
from proard.terminal import table


def summary(result: SearchResult) -> list[str]:
    """The predictor, whether there are enough labels, and the measured front."""
    front, report = result.front, result.report
    seconds = "" if result.seconds_per_label is None else f", {result.seconds_per_label:.2f} s each"
    space = report["space"]
    count = f"{space:,}" if space < 10**6 else f"{space:.2g}"
    attack = front.attack
    lines = [
        f"labels:  {report['labels']} of {count} students{seconds}",
        f"         {front.images} validation images; robust: {attack['name']}, {attack['threat']['norm']}, "
        f"eps {attack['threat']['eps']:.3g}",
        *_noise(report["noise"]),
    ]
    if "predictor" in report:
        lines += ["", *_predictor(report["predictor"]), *_enough(report["predictor"], report["labels"])]
        lines += _verified(report["verified"])
    else:
        lines.append("         every student was measured, or too few to predict others")
    best = front.best(("multiply_adds",))
    rest = "" if len(best) <= MOST_ROWS else f", {MOST_ROWS} of {len(best)}"
    lines += ["", f"measured front on validation images{rest}; 1 multiply-add = 1 FLOP"]
    return lines + table([dict(zip(HEAD, row, strict=True)) for row in table_rows(best)])


def as_json(result: SearchResult) -> dict[str, Any]:
    """The report, and the front of accuracies and multiply-adds."""
    return {
        "path": str(result.path),
        "seconds_per_label": result.seconds_per_label,
        **result.report,
        "measured": len(result.front.measured),
        "front": [
            {"architecture": dict(p.architecture), "clean": p.label.clean, "robust": p.label.robust, **asdict(p.cost)}
            for p in result.front.best(("multiply_adds",))
        ],
    }


def typical_budget(front: Front) -> str:
    """A budget for which the front has something to choose, for an example."""
    best = front.best(("multiply_adds",))
    return short(best[len(best) // 2].cost.multiply_adds, up=True)


def _noise(noise: dict[str, Any]) -> list[str]:
    errors = ", ".join(f"{target} {100 * noise[target]['standard_error']:.1f}" for target in TARGETS)
    halves = ", ".join(f"{target} {noise[target]['agreement']['labels']:.2f}" for target in TARGETS)
    return [
        f"noise:   standard error in points: {errors}",
        f"         Kendall tau of two independent labels: {halves}",
    ]


def _predictor(predictor: dict[str, Any]) -> list[str]:
    """How each regressor did on labels that it had not seen; a star marks the one that is used."""
    rows = []
    for name in predictor[TARGETS[0]]["compared"]:
        row = {"predictor": name}
        for target in TARGETS:
            held_out, star = predictor[target]["compared"][name], predictor[target]["chosen"] == name
            row[f"{target} tau"] = f"{held_out['tau']:.2f}{'*' if star else ''}"
            row[f"{target} error"] = f"{100 * held_out['error']:.1f}"
        rows.append(row)
    return ["held-out Kendall tau and mean absolute error in points; * is used", *table(rows)]


def _enough(predictor: dict[str, Any], labels: int) -> list[str]:
    lines = []
    for target in TARGETS:
        enough = predictor[target]["enough_labels"]
        if enough is None:
            lines.append(f"enough:  {target}: more than {labels} labels may still help (--labels {2 * labels})")
        else:
            lines.append(f"enough:  {target}: {enough} labels rank held-out students as well as all {labels}")
    return lines


def _verified(verified: dict[str, Any]) -> list[str]:
    if not verified["students"]:
        return []
    errors = ", ".join(f"{target} {100 * verified[f'{target}_error']:.1f}" for target in TARGETS)
    return [f"checked: {verified['students']} of the predicted front; mean error in points: {errors}"]
