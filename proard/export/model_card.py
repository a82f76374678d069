"""The README.md of a student directory: what a person who might use the student wants to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proard.common.units import how_many

TEMPLATE = """# A robust image classifier{budget}

{origin} by proard {card[versions][proard]}.

| | |
|---|---|
| network | {card[family]}, {card[num_classes]} classes, input {shape}, float images in [0, 1] |
| multiply-adds | {card[multiply_adds]:,} (1 multiply-add = 1 FLOP) |
| parameters | {card[parameters]:,} ({card[bytes]:,} bytes in float32{weights_int8}) |
| peak activation memory | {card[peak_activation_bytes]:,} bytes (float32, batch size 1{peak_int8}) |
{latency}| threat model | {norm}, eps {eps:.5g}, pixel values in [0, 1] |
| trained on | {data} |
{accuracies}
{energy}
Accuracies are on {images} images of the {split} split, with 95 % intervals. Robust accuracy is that under the attack
named, and no promise about others.
{formats}{further}
## Use it

`images` are float32 (N, {shape}) in [0, 1]; normalisation is inside. The class is that of the largest logit.

With proard:

```python
from proard import load_student
student = load_student("this directory")       # verified by checksum
logits = student(images)
```
{snippets}
Classes, in the order of the logits: {class_names}.

## What the numbers do not say

- Robust accuracy is an upper bound: a stronger attack than those named can only lower it. For a headline number run
  `proard evaluate . --attack autoattack`.
- It is about perturbations of at most eps {eps:.5g} in {norm}. {not_tried} were not tried, and robustness against one
  says little about another.
- It is about images like those of {data}. Images from elsewhere, or of no class at all, are classified all the same,
  and the logits are not calibrated probabilities.
- The intervals are about the choice of test images. They leave out what another training run would change.{int8_limits}
"""

SNIPPETS = {
    "pt2": (
        "With PyTorch alone",
        'import torch\nstudent = torch.export.load("{file}").module()\nlogits = student(images)',
    ),
    "onnx": (
        "With onnxruntime alone",
        "import numpy, onnxruntime\n"
        'session = onnxruntime.InferenceSession("{file}")\n'
        '(logits,) = session.run(["logits"], {{"images": numpy.asarray(images, numpy.float32)}})',
    ),
    "pt2-int8": (
        "In int8, with PyTorch alone",
        "import torch\n"
        "import torch.ao.quantization.fx._decomposed  # registers the operators of quantised programs\n"
        'student = torch.export.load("{file}").module()\n'
        "logits = student(images)",
    ),
    "executorch": (
        "With ExecuTorch",
        "import torch\n"
        "from executorch.runtime import Runtime\n"
        'method = Runtime.get().load_program("{file}").load_method("forward")\n'
        "logits = torch.cat([method.execute((image,))[0].clone() for image in images.split({batch})])",
    ),
}
SNIPPETS["onnx-int8"] = ("In int8, with onnxruntime alone", SNIPPETS["onnx"][1])

FORMATS = """
## The files

| format | file | bytes | clean | {attacks} | agrees with the student |
|---|---|---|---|{lines}|---|
{rows}

Each file was run on {images} test images. `transfer`: adversarial images of the student in float32.{int8}
"""

INT8_LIMITS = """
- The int8 files were run on a CPU here. Other hardware rounds elsewhere, so that single predictions may
  differ. Square Attack was given few queries, and finds more with 5000."""

INT8 = """ An int8 file
is another function than the student: rounding hides its gradients, so that a gradient attack on it finds little, which
says nothing about robustness. Hence also `straight_through`: projected gradient descent through a copy whose rounding
passes gradients on; and `square`: {queries} queries of Square Attack, which needs no gradient. `lowest` counts an image
only if the file is right about it before and after all of them.

In int8: weights (a scale per output channel) and activations (a scale per tensor, from {calibration} validation
images); batch norm is folded. In float32: {float_operations}."""


def model_card(card: dict[str, Any], further: Mapping[str, dict[str, Any]] | None = None) -> str:
    """Markdown for people, from the content of student.json and of the files of `PARTS`."""
    further = further or {}
    evaluation, budget = card["evaluation"], card["budget"]
    rows = [("clean accuracy", evaluation["clean"])]
    rows += [(f"robust accuracy, {robust['attack']['name']}", robust) for robust in evaluation["robust"]]
    formats: dict[str, Any] = card.get("formats", {})
    quantised = next((entry for entry in formats.values() if "square" in entry.get("robust", {})), None)
    return TEMPLATE.format(
        card=card,
        **card["threat_model"],
        data=card["data"]["name"],
        images=evaluation["clean"]["images"],
        split=evaluation["split"],
        budget="" if budget is None else f", at most {_limits(budget)}",
        origin="Trained as it is" if budget is None else "Cut out of a weight-sharing network",
        shape=" x ".join(map(str, card["input_shape"])),
        weights_int8=_int8(card.get("weight_bytes_int8")),
        peak_int8=_int8(card.get("peak_activation_bytes_int8")),
        latency=_latency(card.get("latency")),
        accuracies="\n".join(f"| {name} | {_percent(row)} |" for name, row in rows),
        energy=_energy(card.get("energy")),
        formats=_formats(formats, quantised),
        further="".join(part(further[name]) for name, part in PARTS.items() if name in further),
        not_tried=", ".join(what for what, part in NOT_TRIED.items() if part not in further).capitalize()
        + " and patches",
        snippets="".join(_snippet(name, entry) for name, entry in formats.items() if name in SNIPPETS)
        or _snippet("pt2", {"file": "student.pt2"}),
        class_names=", ".join(card["classes"]),
        int8_limits=INT8_LIMITS if quantised else "",
    )


def _limits(budget: dict[str, Any]) -> str:
    """One limit, or several that hold together."""
    return " and ".join(f"{limit['text']} ({limit['kind']})" for limit in budget.get("all", [budget]))


def _int8(count: int | None) -> str:
    """What the cost model expects of an int8 runtime; an exported file also describes its graph."""
    return f"; {count:,} in int8" if count else ""


def _latency(latency: dict[str, Any] | None) -> str:
    """A row, if the student was chosen by its latency."""
    if not latency:
        return ""
    measured = latency["measured"]
    how = ", ".join(f"{key.replace('_', ' ')} {measured[key]}" for key in ("runtime", "dtype", "batch_size", "threads"))
    return f"| latency | {1000 * measured['median']:.3g} ms, median on {measured['device']}; {how} |\n"


def _formats(formats: dict[str, Any], quantised: dict[str, Any] | None) -> str:
    """The table of the files, if they were measured; ``quantised`` is one of the int8 files."""
    measured = {name: entry for name, entry in formats.items() if "robust" in entry}
    if not measured:
        return ""
    names = _attack_names(measured.values())
    rows = []
    for name, entry in measured.items():
        robust = [_percent(entry["robust"][attack]) if attack in entry["robust"] else "" for attack in names]
        agreement = entry["agreement"]
        same = f"{100 * agreement['equal_predictions']:.1f} % of predictions"
        same += f", logits within {agreement['max_logit_difference']:.2g}"
        cells = [name, f"`{entry['file']}`", f"{entry['bytes']:,}", _percent(entry["clean"]), *robust, same]
        rows.append(f"| {' | '.join(cells)} |")
    int8 = ""
    if quantised is not None:
        int8 = INT8.format(
            queries=quantised["robust"]["attacks"]["square"]["queries"],
            calibration=quantised["settings"]["calibration_images"],
            float_operations=", ".join([*quantised["settings"]["float_operations"], "the logits"]),
        )
    return FORMATS.format(
        attacks=" | ".join(names),
        lines="|".join(["---"] * len(names)),
        rows="\n".join(rows),
        images=next(iter(measured.values()))["clean"]["images"],
        int8=int8,
    )


def _attack_names(entries: Iterable[dict[str, Any]]) -> list[str]:
    """``lowest`` is the last column, and none where there is one attack only."""
    found = dict.fromkeys(name for entry in entries for name in entry["robust"] if name != "attacks")
    names = [name for name in found if name != "lowest"]
    return names if len(names) == 1 else [*names, "lowest"]


def _snippet(name: str, entry: dict[str, Any]) -> str:
    """Lines that run a file, for batches of the size that it takes."""
    title, code = SNIPPETS[name]
    batch = entry.get("settings", {}).get("batch", "any")
    note = "" if batch == "any" else f" (it takes {how_many(batch, 'image')} at a time)"
    return f"\n{title}{note}:\n\n```python\n{code.format(file=entry['file'], batch=batch)}\n```\n"


def _energy(energy: dict[str, Any] | None) -> str:
    """A row on what the run cost; nothing where it is not known."""
    if not energy or energy.get("kwh") is None:
        return ""
    emissions = "" if energy.get("kg_co2eq") is None else f", {energy['kg_co2eq']:.3g} kg CO2eq"
    share = " for the whole run, which all its students share"
    return f"| energy | {energy['kwh']:.3g} kWh{emissions}{share} |\n"


def _corruptions(found: dict[str, Any]) -> str:
    """Accuracy under common corruptions: their mean, by category, and each by severity."""
    kinds, images = found["corruptions"], found["images"]
    severities = [row["severity"] for row in next(iter(kinds.values()))["severities"]]
    rows = [
        [name, *(f"{100 * row['accuracy']:.1f}" for row in kind["severities"]), _percent(kind["mean"])]
        for name, kind in kinds.items()
    ]
    means = {f"all {name}": mean for name, mean in found["categories"].items()} | {f"all {len(kinds)}": found["mean"]}
    rows += [[name, *[""] * len(severities), _percent(mean)] for name, mean in means.items()]
    text = (
        f"Accuracy in per cent on {images} {found['split']} images ({_percent(found['clean'])} clean): {found['note']}."
    )
    return _section("Common corruptions", text, ["corruption", *map(str, severities), "mean"], rows)


def _curve(found: dict[str, Any]) -> str:
    """Accuracy over the attack's radius and steps, and what that says."""
    attack = found["attack"]
    eps = attack["threat"]["eps"]
    rows = [[f"{row['eps']:.4g}", f"{row['eps'] / eps:.3g}", _percent(row)] for row in found["radii"]]
    text = f"{attack['name']}, {attack['threat']['norm']}, {found['images']} {found['split']} images."
    first = _section("Accuracy by radius", text, ["eps", "times the threat model's", "accuracy"], rows)
    rows = [[str(row["steps"]), _percent(row)] for row in found["steps"]]
    second = _section("Accuracy by steps of the attack", "At the threat model's eps.", ["steps", "accuracy"], rows)
    return first + second + "\n" + "\n".join(f"- {finding}." for finding in found["findings"]) + "\n"


def _autoattack(found: dict[str, Any]) -> str:
    """Accuracy under AutoAttack, or under that of each norm and under all."""
    rows = []
    for name, row in found["robust"].items():
        threat, order = row["attack"].get("threat"), row.get("order", {})
        of = "all of these" if threat is None else f"{threat['norm']}, eps {threat['eps']:.4g}"
        named = [
            " ".join([part, *(f"{value} {option}" for option, value in more.items())]) for part, more in order.items()
        ]
        rows.append([name, of, ", ".join(named), _percent(row)])
    text = f"On {found['clean']['images']} {found['clean']['split']} images ({_percent(found['clean'])} clean)."
    title = "Every norm" if "union" in found["robust"] else "AutoAttack"
    return _section(title, text, ["attack", "threat", "parts in their order", "accuracy"], rows)


# What nobody tried, unless one of the parts below did
NOT_TRIED = {"larger ones": "curve", "other norms": "union", "rotations": "", "noise, blur": "corruptions"}
# Of files that `evaluate` may add to a student directory
PARTS = {"autoattack": _autoattack, "union": _autoattack, "curve": _curve, "corruptions": _corruptions}


def _section(title: str, text: str, head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return f"\n## {title}\n\n{text}\n\n" + "\n".join(lines) + "\n"


def _percent(row: dict[str, Any]) -> str:
    low, high = row["interval_95"]
    return f"{100 * row['accuracy']:.1f} % ({100 * low:.1f} - {100 * high:.1f})"
