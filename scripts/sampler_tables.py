"""Tables of the sampler study, from its rows.

python scripts/sampler_tables.py docs/results/compute_digits.jsonl
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from sampler_arms import ALONE, ARMS, BASE, PLACES, SHARE


def by_arm(rows: list[dict[str, Any]], measured: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Arm to seed to students, seconds and multiply-adds; the parts of ``alone`` are put together, complete ones."""
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["measured"] != measured:
            continue
        empty = {"students": {}, "seconds": 0.0, "epochs": [], "multiply_adds": 0.0}
        entry = arms.setdefault(row["arm"], {}).setdefault(row["seed"], empty)
        entry["students"] |= row["students"]
        entry["epochs"].append(row["epochs"])
        entry["seconds"] += row["seconds"]
        entry["multiply_adds"] += sum(row["multiply_adds"].values())
    some = measured == "autoattack"  # of which only some students may have been measured
    return {
        arm: {seed: e for seed, e in seeds.items() if some or arm == "teacher" or len(e["students"]) == len(PLACES)}
        for arm, seeds in arms.items()
    }


def robust(entry: dict[str, Any], place: str, name: str = "robust") -> float:
    """Accuracy in percent at one place, or the mean over all that were measured; NaN where it was not."""
    students = entry["students"].values() if place == "mean" else filter(None, [entry["students"].get(place)])
    return 100 * mean([student[name] for student in students] or [math.nan])


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: what every arm gives, and its difference from the base arm."""
    lines: list[str] = []
    for measured, title in (("students", "PGD-20"), ("autoattack", "AutoAttack")):
        arms = by_arm(rows, measured)
        teachers = arms.pop("teacher", {})
        order = [
            arm for arm in dict.fromkeys([ALONE, SHARE, *ARMS, *arms]) if arms.get(arm)
        ]  # last, arms that are gone
        if not order:
            continue
        base = BASE if BASE in order else order[0]
        count = next(iter(next(iter(arms[order[0]].values()))["students"].values()))["images"]
        lines += [f"### {title}, % of {count} test images", ""]
        heads = ["arm", "seeds", "epochs", *PLACES, "mean", "clean, mean", "CPU s", "10^12 multiply-adds"]
        lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for arm in order:
            entries = list(arms[arm].values())
            cells = [spread([robust(e, place) for e in entries]) for place in (*PLACES, "mean")]
            cells.append(spread([robust(e, "mean", "clean") for e in entries]))
            cells += [f"{mean(e['seconds'] for e in entries):.0f}"]
            cells += [f"{mean(e['multiply_adds'] for e in entries) / 1e12:.2f}"]
            few, many = (end(n for entry in entries for n in entry["epochs"]) for end in (min, max))
            epochs = str(few) if few == many else f"{few} to {many}"
            lines.append("| " + " | ".join([arm, str(len(entries)), epochs, *cells]) + " |")
        if measured == "students" and teachers:
            entries = list(teachers.values())
            seconds = mean(entry["seconds"] for entry in entries)
            accuracy = spread([robust(entry, "largest") for entry in entries])
            lines += [
                "",
                f"Teachers ({len(entries)}): {accuracy} robust, {seconds:.0f} CPU s and "
                f"{mean(e['multiply_adds'] for e in entries) / 1e12:.2f}e12 multiply-adds each, not in the rows above.",
            ]
        lines += [
            "",
            f"Paired differences from `{base}`, points of {title}, with a 95 % interval over seeds (Student's t)",
        ]
        heads = ["arm", "seeds", *PLACES, "mean"]
        lines += ["", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for arm in order:
            common = sorted(set(arms[arm]) & set(arms[base]))
            if arm == base or not common:
                continue
            cells = []
            for place in (*PLACES, "mean"):
                cells.append(interval([robust(arms[arm][s], place) - robust(arms[base][s], place) for s in common]))
            lines.append("| " + " | ".join([arm, str(len(common)), *cells]) + " |")
        lines.append("")
    gone = dict.fromkeys(row["arm"] for row in rows if row["arm"] not in ("teacher", ALONE, SHARE, *ARMS))
    if gone:
        lines += [f"Arms that are gone; the commits of their rows have the code: {'; '.join(gone)}.", ""]
    return lines


def spread(values: list[float]) -> str:
    """Mean, and standard deviation where there are several; a dash where one was not measured."""
    if math.isnan(mean(values)):
        return "-"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def interval(values: list[float]) -> str:
    """Mean of paired differences, and the half width of its 95 % interval (Student's t)."""
    from scipy.stats import t  # comes with scikit-learn

    if math.isnan(mean(values)):
        return "-"
    if len(values) < 2:
        return f"{values[0]:+.1f}"
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):+.1f} ± {half:.1f}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        lines = tables([json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()])
        Path(name).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
