"""The README.md of a student directory."""

from __future__ import annotations

from typing import Any

TEMPLATE = """# A robust image classifier{budget}

{origin} by proard {version}.

| | |
|---|---|
| network | {family}, {classes} classes, input {shape}, float images in [0, 1] |
| multiply-adds | {multiply_adds:,} (1 multiply-add = 1 FLOP) |
| parameters | {parameters:,} ({bytes:,} bytes in float32) |
| peak activation memory | {peak:,} bytes (float32, batch size 1) |
| threat model | {norm}, eps {eps:.5g}, pixel values in [0, 1] |
| trained on | {data} |
{accuracies}

Accuracies are on {images} images of the {split} split, with 95 % intervals. Robust accuracy is that under the attack
named, and no promise about others.

## Use it

With proard:

```python
from proard import load_student
student = load_student("this directory")       # verified by checksum
logits = student(images)                       # float (N, {shape}) in [0, 1]; normalisation is inside
```

With PyTorch alone:

```python
import torch
student = torch.export.load("student.pt2").module()
logits = student(images)
```

Classes, in the order of the logits: {class_names}.
"""


def model_card(card: dict[str, Any]) -> str:
    """Markdown for people, from the content of student.json."""
    evaluation, budget = card["evaluation"], card["budget"]
    rows = [("clean accuracy", evaluation["clean"])]
    rows += [(f"robust accuracy, {robust['attack']['name']}", robust) for robust in evaluation["robust"]]
    return TEMPLATE.format(
        budget="" if budget is None else f", at most {budget['text']} ({budget['kind']})",
        origin="Trained as it is" if budget is None else "Cut out of a weight-sharing network",
        version=card["versions"]["proard"],
        family=card["family"],
        classes=card["num_classes"],
        shape=" x ".join(map(str, card["input_shape"])),
        multiply_adds=card["multiply_adds"],
        parameters=card["parameters"],
        bytes=card["bytes"],
        peak=card["peak_activation_bytes"],
        norm=card["threat_model"]["norm"],
        eps=card["threat_model"]["eps"],
        data=card["data"]["name"],
        accuracies="\n".join(f"| {name} | {_percent(row)} |" for name, row in rows),
        images=evaluation["clean"]["images"],
        split=evaluation["split"],
        class_names=", ".join(card["classes"]),
    )


def _percent(row: dict[str, Any]) -> str:
    low, high = row["interval_95"]
    return f"{100 * row['accuracy']:.1f} % ({100 * low:.1f} - {100 * high:.1f})"
