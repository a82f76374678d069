"""Options that make every family small: for tests of all of them."""

from __future__ import annotations

from typing import Any

MOBILE = {"depth_choices": [1], "width_multiplier": 0.25, "expand_choices": [3], "kernel_choices": [3]}
SMALL_FAMILIES: dict[str, dict[str, Any]] = {
    "resnet": {"widths": [8, 16], "blocks": [1, 1]},
    "resnet50": {"widths": [32, 64], "blocks": [1, 1], "depth_choices": [0]},
    "vit": {"width_choices": [32], "depth_choices": [1], "heads_choices": [2], "mlp_choices": [2], "head_channels": 8},
    "mobilenetv2": MOBILE,
    "mobilenetv3": MOBILE,
    "proxyless": MOBILE,
}
