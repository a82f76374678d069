"""Images as PNG, as text that a page can hold."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

LARGEST_SIDE = 128  # of an embedded image, in pixels


def png(image: torch.Tensor) -> str:
    """A data URI of an image (C, H, W) in [0, 1], of 1 or 3 channels (of others, the first is shown)."""
    values = image.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    picture = to_pil_image(values if len(values) == 3 else values[:1])
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
