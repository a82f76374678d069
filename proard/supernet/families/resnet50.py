"""``resnet50``: the residual space of the ProARD paper, bottlenecks and a stem of three layers."""

from __future__ import annotations

from dataclasses import dataclass

from proard.supernet.families.resnet import BlockSpec, ConvolutionSpec, ResNetFamily
from proard.supernet.family import families, round_channels
from proard.supernet.space import Decision


@families.register("resnet50")
@dataclass(frozen=True)
class ResNet50Family(ResNetFamily):
    """The residual space of ProARD (arXiv 2506.07666), with its channel counts: bottlenecks and a stem of three layers.

    The options are those of ``resnet``. A stem depth of 0 or 1 leaves out the stem's residual layer, so both are one
    network; so are stem widths that round to equal channel counts.
    """

    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    blocks: tuple[int, ...] = (2, 2, 4, 2)
    depth_choices: tuple[int, ...] = (0, 1, 2)
    width_choices: tuple[float, ...] = (0.65, 0.8, 1.0)
    expand_choices: tuple[float, ...] = (0.2, 0.25, 0.35)
    dropout: float = 0.1

    middle_divisor = 8
    stem_widths = (32, 64)  # of the inner layers, and of the last one

    def _stem_decisions(self) -> list[Decision]:
        deepest, shallowest = self.depth_choices[-1], self.depth_choices[0]
        return [
            Decision(
                "stem.depth",
                "depth",
                self.depth_choices,
                same=tuple((choice, shallowest) for choice in self.depth_choices if choice != deepest),
            ),
            *(
                self._stem_width(f"stem.{name}.width", width)
                for name, width in zip(("middle", "output"), self.stem_widths, strict=True)
            ),
        ]

    def _stem_width(self, name: str, width: int) -> Decision:
        first: dict[int, float] = {}  # rounded channel count to the first choice that gives it
        for choice in self.width_choices:
            first.setdefault(round_channels(width * choice), choice)
        same = tuple((choice, first[round_channels(width * choice)]) for choice in self.width_choices)
        return Decision(name, "width", self.width_choices, same=same)

    def _stem_plan(self, chosen: dict[str, float]) -> tuple[tuple[tuple[str, BlockSpec], ...], int]:
        middle = round_channels(self.stem_widths[0] * chosen["stem.middle.width"])
        outputs = round_channels(self.stem_widths[1] * chosen["stem.output.width"])
        stride = 2 if self.stem == "imagenet" else 1
        stem = [("input", BlockSpec((ConvolutionSpec(self.input_shape[0], middle, 3, stride),)))]
        if chosen["stem.depth"] == self.depth_choices[-1]:
            stem.append(("residual", BlockSpec((ConvolutionSpec(middle, middle, 3),), shortcut=True)))
        stem.append(("output", BlockSpec((ConvolutionSpec(middle, outputs, 3),))))
        return tuple(stem), outputs

    def _convolutions(self, inputs: int, middle: int, outputs: int, stride: int) -> tuple[ConvolutionSpec, ...]:
        """A bottleneck: 1x1, 3x3 (which has the stride), 1x1."""
        return (
            ConvolutionSpec(inputs, middle, 1),
            ConvolutionSpec(middle, middle, 3, stride),
            ConvolutionSpec(middle, outputs, 1),
        )
