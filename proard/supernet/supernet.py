"""The supernet: the weights of the largest network, and the slicing rule that cuts students out of it.

A student's tensor is the supernet's tensor of the same name, cut to its leading entries (`leading_slice`). Training
cuts a student, computes its gradient, and adds it back into the supernet's slices; extraction is the same cut,
calibrated.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

import torch
from torch import nn

from proard.common import html
from proard.common.device import weights_to_cast
from proard.common.errors import UserError, nearest
from proard.supernet.architecture import Architecture
from proard.supernet.calibration import Batches, calibrate
from proard.supernet.family import Family, families
from proard.supernet.kernel_transform import KernelTransform
from proard.supernet.skeletons import fill, fill_copy
from proard.supernet.space import SearchSpace

SKELETONS_KEPT = 128


def leading_slice(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The slicing rule: a view of the first entries along each dimension, and of the centre of a kernel.

    Args:
        tensor: a tensor of the supernet.
        shape: the student's shape, nowhere larger; from dimension 2 of a 4-dimensional weight on (a convolution's
            kernel), the centre is taken.
    """
    index = []
    for dimension, (full, size) in enumerate(zip(tensor.shape, shape, strict=True)):
        start = (full - size) // 2 if tensor.dim() >= 4 and dimension >= 2 else 0
        index.append(slice(start, start + size))
    return tensor[tuple(index)]


def _in_one_launch(slices: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Names in lists: a GPU takes slices without gaps, and tensors of one type, in one launch, the rest one by one."""
    lists = defaultdict[tuple[bool, torch.dtype], list[str]](list)
    for name, tensor in slices.items():
        lists[tensor.is_contiguous(), others[name].dtype].append(name)
    return list(lists.values())


class Supernet(nn.Module):
    """A weight-sharing network. It holds weights and has no forward pass of its own: students run.

    Args:
        family: the static network, its plan and its decisions.
        space: the part of the family's space to hold weights for; default all of it. A space of one architecture makes
            one fixed network.
    """

    def __init__(self, family: Family, space: SearchSpace | None = None) -> None:
        super().__init__()
        self.family = family
        self.space: SearchSpace = family.space() if space is None else space
        self._skeletons: OrderedDict[Architecture, nn.Module] = OrderedDict()
        largest = family.network(family.plan(self.space.largest()))
        # Its tensors are registered here directly, so that names are the same in the supernet and in every student.
        for name, module in largest.named_children():
            self.add_module(name, module)
        for name, parameter in largest.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in largest.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        kernels = family.elastic_kernels() if self.space.size > 1 else {}  # in one fixed network none is cut
        # Module names cannot hold dots.
        self.kernel_transforms = nn.ModuleDict(
            {name.replace(".", "/"): KernelTransform(sizes) for name, sizes in kernels.items()}
        )

    def __repr__(self) -> str:
        """Not the tree of modules: that is a student's, as in ``print(net.student(net.space.largest()))``."""
        return f"Supernet({self._summary()}; {self.space!r})"

    def _repr_html_(self) -> str:
        """For notebooks: the family with the options that are not its defaults, and the space."""
        options = [
            f"{option.name}: {value}"
            for option in fields(self.family)
            if option.name not in ("num_classes", "input_shape")
            and (value := getattr(self.family, option.name)) != option.default
        ]
        return html.block(html.paragraph(f"Supernet: {self._summary()}"), html.lines(options), self.space._repr_html_())

    def _summary(self) -> str:
        """Family, weights, images and classes."""
        shape = " x ".join(map(str, self.family.input_shape))
        weights = sum(parameter.numel() for parameter in self.parameters())
        name = families.name_of(self.family)
        return f"family {name}, {weights:,} parameters, images {shape}, {self.family.num_classes} classes"

    def forward(self, *_: Any) -> torch.Tensor:
        """Not defined: a supernet is no one network."""
        raise TypeError("a supernet runs one student at a time: supernet.student(architecture)(images)")

    def student(self, architecture: Architecture, precision: torch.dtype = torch.float32) -> nn.Module:
        """Cut a student out: a plain network in training mode with contiguous copies of its weights.

        Its batch norm normalises by the batch, in training and evaluation mode alike, until it is calibrated. Every
        call returns a new, independent module.

        Args:
            architecture: one of this space.
            precision: of the `autocast` that it is to run in, which then need not cast its weights in every pass.

        Raises:
            UserError: the architecture is not of this space.
        """
        skeleton = self._skeleton(self.space.canonical(architecture))
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        parts = (*skeleton.named_parameters(), *skeleton.named_buffers())
        with torch.no_grad():
            cut = {name: self._cut(name, tensors[name], part.shape) for name, part in parts}
            low = weights_to_cast(skeleton) if precision != torch.float32 else ()
            copies = {
                name: torch.empty_like(part, dtype=precision if name in low else None) for name, part in cut.items()
            }
            for names in _in_one_launch(cut, copies):
                torch._foreach_copy_([copies[name] for name in names], [cut[name] for name in names])
            return (fill if self.family.plain else fill_copy)(skeleton, lambda name, _: copies[name])

    def accumulate(self, student: nn.Module) -> None:
        """Add the student's gradients into the gradients of the supernet's slices (zero outside of them)."""
        weights = dict(self.named_parameters())
        slices, gradients = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
        for name, parameter in student.named_parameters():
            if parameter.grad is None:
                continue
            weight = weights[name]
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            if self._transform(name, weight, parameter.shape) is None:
                slices[name] = leading_slice(weight.grad, parameter.shape)
                gradients[name] = parameter.grad
            else:  # a vector-Jacobian product: into the largest kernel, and into the transform's matrices
                with torch.enable_grad():
                    self._cut(name, weight, parameter.shape).backward(parameter.grad.to(weight.dtype))
        for names in _in_one_launch(slices, gradients):
            torch._foreach_add_([slices[name] for name in names], [gradients[name] for name in names])

    def extract(self, architecture: Architecture, calibration: Batches) -> nn.Module:
        """The same cut with batch-norm statistics of its own, in evaluation mode.

        Args:
            architecture: one of this space.
            calibration: batches of training images (N, C, H, W) in [0, 1], or tuples that start with them.

        Raises:
            ValueError: no calibration batch.
        """
        student = self.student(architecture)
        calibrate(student, calibration)
        return student.eval()

    def sort_channels(self, unlocking: Collection[str], unlocked: Collection[str] = ()) -> None:
        """Order channels by importance, so that narrower students start from the channels that matter most.

        The importance of a channel is the l1 norm of the weights that read it (Once-for-All, arXiv 1908.09791, section
        3.3). The function of the largest student does not change. Axes that earlier phases have cut already are left
        alone: reordering them would scramble the students trained so far.

        Args:
            unlocking: kinds of decision about to vary.
            unlocked: kinds that have varied before.
        """
        weights = dict(self.named_parameters())
        with torch.no_grad():
            for group in self.family.channel_groups():
                if not group.kinds & set(unlocking) or group.kinds & set(unlocked):
                    continue
                importance = sum(weights[name].abs().transpose(0, 1).flatten(1).sum(1) for name in group.readers)
                order = torch.argsort(torch.as_tensor(importance), descending=True, stable=True)
                for names, dimension in ((group.writers, 0), (group.readers, 1)):
                    for name in names:
                        weights[name].copy_(weights[name].index_select(dimension, order))

    def _cut(self, name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """A student's tensor as a function of the supernet's: its slice, or its transformed kernel."""
        transform = self._transform(name, tensor, shape)
        return (
            leading_slice(tensor, shape) if transform is None else transform(tensor[: shape[0], : shape[1]], shape[-1])
        )

    def _transform(self, name: str, tensor: torch.Tensor, shape: torch.Size) -> KernelTransform | None:
        """What makes a smaller kernel of this tensor, if the student's is smaller and it is not a plain crop."""
        key = name.replace(".", "/")
        if key not in self.kernel_transforms or shape[-1] == tensor.shape[-1]:
            return None
        return cast(KernelTransform, self.kernel_transforms[key])

    def _skeleton(self, architecture: Architecture) -> nn.Module:
        """The student's modules without weights, remembered for the architectures used last."""
        skeleton = self._skeletons.get(architecture)
        if skeleton is None:
            skeleton = self.family.skeleton(self.family.plan(architecture))
            self._skeletons[architecture] = skeleton
            if len(self._skeletons) > SKELETONS_KEPT:
                self._skeletons.popitem(last=False)
        self._skeletons.move_to_end(architecture)
        return skeleton


def build_supernet(
    family: str,
    *,
    num_classes: int,
    input_shape: Sequence[int],
    seed: int = 0,
    architecture: str | Mapping[str, float] | None = None,
    **family_options: Any,
) -> Supernet:
    """Build a supernet with random weights.

    Args:
        family: ``resnet``, ``resnet50`` ...; see `proard.supernet.families`.
        num_classes: at least 2.
        input_shape: (channels, height, width) of an image.
        seed: of the initial weights; the global random state is left as it was.
        architecture: hold the weights of this one alone: ``largest``, ``smallest``, or decisions and their values
            (those left out are at their largest); default the whole space.
        family_options: fields of the family's class, such as ``widths`` or ``mean``.

    Raises:
        UserError: unknown family or option, a value out of range, or an architecture that is not of the space.
    """
    described = families.build(
        family,
        {**family_options, "input_shape": tuple(input_shape), "num_classes": num_classes},
        where="build_supernet",
    )
    space = described.space()
    if architecture is not None:
        ends = {"largest": space.largest, "smallest": space.smallest}
        if isinstance(architecture, str) and architecture not in ends:
            raise UserError(f"architecture '{architecture}': unknown{nearest(architecture, ends)}")
        given = ends[architecture]() if isinstance(architecture, str) else architecture
        space = space.only({**{decision.name: decision.choices[-1] for decision in space.decisions}, **given})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Supernet(described, space)
