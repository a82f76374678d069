"""A pretend accelerator, for machines without one: tensors that say they are elsewhere, and compute on the CPU.

    with PretendDevice() as device:  # device.device is torch.device("pretend:0")
        network.to(device.device)(torch.rand(4, 1, 8, 8, device=device.device)).sum().backward()
    assert device.waits == []

Its numbers are the CPU's, so what is computed on it must equal the same on the CPU bit for bit. What an accelerator
refuses raises: tensors of two devices in one operation, a generator of another device, ``numpy()``. What makes the host
wait for it is noted, with the function of proard that did: a number that is read, a shape that depends on values (a
mask as an index, ``nonzero``), a copy to the host, a copy from it that is not ``non_blocking``.

It cannot show memory, speed, streams, or what `proard` does for CUDA alone (autocast, pinned memory, CUDA graphs, the
state of CUDA's own generator): the choice of those is tested in test_device.py and test_graphs.py.

It rests on PyTorch's Python backend for PrivateUse1, which has to be known before the first backward pass of a process:
that is why it is registered when this module is imported, which is while pytest collects the files of its tests, and
not where only others run. Outside of a `PretendDevice` the backend says that it is not available.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

import proard

NAME = "pretend"
PACKAGE = str(Path(proard.__file__).parent)
CPU = torch.device("cpu")
COPIES = ("aten.copy_.", "aten._to_copy.", "aten._foreach_copy_.")
Generator = torch.Generator  # PyTorch's own, in whose place `PretendGenerator` is while a device is in use


@dataclass(frozen=True)
class Wait:
    """Something for which the host had to wait for the device.

    Attributes:
        kind: ``read`` (a number, or a whole tensor, on the host), ``shape`` (one that depends on values), or ``upload``
            (a copy from the host that blocks).
        operation: PyTorch's name of it.
        functions: those of proard that were at work, as ``attacks.steps.best_of``, innermost first.
    """

    kind: str
    operation: str
    functions: tuple[str, ...]

    def within(self, functions: Collection[str]) -> bool:
        """Whether one of these was at work."""
        return not set(functions).isdisjoint(self.functions)


class PretendTensor(torch.Tensor):
    """A tensor on the pretend device, around one on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> PretendTensor:
        """A tensor that has all of another but its device and its numbers."""
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    # Else results on the CPU would be made PretendTensors, which hold nothing
    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def data(self) -> torch.Tensor:
        """The same numbers without their history; what is put here takes their place."""
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: PretendTensor) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation on such a tensor."""
        return _run(function, args, kwargs or {})

    def tolist(self) -> Any:
        """The numbers, which the host waits for; PyTorch's own refuses subclasses."""
        _note("read", "tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> NoReturn:
        """Refused, in the words in which PyTorch refuses it for an accelerator."""
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as the tensor on the CPU that a reader asks for."""
        _note("read", "save")
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"PretendTensor({tuple(self.shape)}, {self.dtype})"


class PretendGenerator(Generator):
    """A generator of the device it is made for: its numbers are the CPU's, and it draws nowhere else."""

    def __new__(cls, device: torch.device | str = CPU) -> PretendGenerator:
        """As PyTorch's, which knows no generator of the device."""
        made = super().__new__(cls, CPU if torch.device(device).type == NAME else device)
        made.of = torch.device(device)
        return made

    of: torch.device

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return self.of


class PretendDevice(TorchDispatchMode):
    """The context in which there is such a device.

    Attributes:
        device: to be given to whatever takes a device.
        waits: what the host has waited for, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device(NAME, 0)
        self.waits: list[Wait] = []
        self.calls = _Calls()

    def __enter__(self) -> PretendDevice:
        _backend.entered.append(self)
        torch.Generator = PretendGenerator  # type: ignore[misc]
        super().__enter__()
        self.calls.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.calls.__exit__(*exception)
        super().__exit__(*exception)
        torch.Generator = Generator  # type: ignore[misc]
        _backend.entered.remove(self)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, so that PyTorch need not wrap, and slow down, what is below."""
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation inside, of which some make the first tensors of the device."""
        return _run(function, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What has to be seen in the calls from Python, as operations no longer show it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Check whose generator draws; make tensors of Python's numbers on the CPU first, as PyTorch does."""
        kwargs = kwargs or {}
        target = kwargs.get("device")
        if isinstance(kwargs.get("generator"), Generator):
            of = kwargs["generator"].device
            drawn = next((arg.device for arg in args if isinstance(arg, torch.Tensor)), target or CPU)
            if of.type != torch.device(drawn).type:
                raise RuntimeError(f"{function.__name__}: the generator is of {of}, what it draws is on {drawn}")
        if function in (torch.tensor, torch.as_tensor) and target is not None and not isinstance(args[0], torch.Tensor):
            return function(*args, **{**kwargs, "device": CPU}).to(target)
        return function(*args, **kwargs)


class _Backend:
    """What PyTorch asks of a backend's module, as ``torch.pretend``."""

    def __init__(self) -> None:
        self.entered: list[PretendDevice] = []

    def is_available(self) -> bool:
        return bool(self.entered)

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return len(self.entered)

    def manual_seed_all(self, seed: int) -> None:
        """Nothing: without a generator it draws from the CPU's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_backend = _Backend()


def _registered() -> str:
    """Make the backend known to PyTorch; empty, or why that cannot be."""
    if torch.cuda.is_available():
        return "there is a GPU, for whose backward passes a second accelerator would change the stream"
    prepare = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if prepare is None:
        return f"PyTorch {torch.__version__} has no backend in Python"
    if torch._C._get_privateuse1_backend_name() != "privateuseone":
        return "PyTorch's one place for such a backend is taken"
    prepare(rename=NAME, backend_module=_backend)
    return ""


missing = _registered()
"""Why there is no pretend device here; empty where there is."""


# ---------------------------------------------------------------------------------------------------------------------
# One operation


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation, on the CPU; its results are of the device that they would be of."""
    tensors: list[torch.Tensor] = []
    held = _unwrapped(args, tensors)
    options = {name: _unwrapped(value, tensors) for name, value in kwargs.items()}
    ours = [isinstance(tensor, PretendTensor) for tensor in tensors]
    here, target, name = any(ours), kwargs.get("device"), str(function)
    if name.startswith(COPIES):
        _note_copies(name, args, kwargs)
    elif here:
        if not all(own or tensor.dim() == 0 for own, tensor in zip(ours, tensors, strict=True)):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {NAME}:0 and cpu")
        if kind := _waits(function, args):
            _note(kind, name)
    if target is not None:
        here = torch.device(target).type == NAME
        options["device"] = CPU if here else target
    return _results(function, args, kwargs, function(*held, **options), here)


def _unwrapped(value: Any, seen: list[torch.Tensor]) -> Any:
    """An argument as the CPU takes it; its tensors are added to those seen."""
    if isinstance(value, torch.Tensor):
        seen.append(value)
        return value.held if isinstance(value, PretendTensor) else value
    return type(value)([_unwrapped(part, seen) for part in value]) if type(value) in (list, tuple) else value


def _wrapped(value: Any) -> Any:
    """A result as one of the device's."""
    if isinstance(value, torch.Tensor):
        return PretendTensor(value)
    return type(value)(map(_wrapped, value)) if type(value) in (list, tuple) else value


def _results(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: Any, here: bool) -> Any:
    """What an operation returns: an argument that it wrote into as that argument itself, else new tensors."""
    written = {}
    for position, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            written.update(dict.fromkeys(argument.alias_info.after_set, given))
            if isinstance(given, PretendTensor) and given.held.shape != given.shape:
                raise NotImplementedError(f"{function}: the pretend device cannot change a tensor's shape in place")
    returned = function._schema.returns
    values = found if len(returned) > 1 else (found,)
    results = []
    for result, value in zip(returned, values, strict=False):
        into = result.alias_info is not None and result.alias_info.is_write
        own = next((written[name] for name in result.alias_info.after_set if name in written), None) if into else None
        results.append(own if own is not None else _wrapped(value) if here else value)
    return tuple(results) if len(returned) > 1 else results[0] if results else found


# ---------------------------------------------------------------------------------------------------------------------
# What the host waits for


def _waits(function: Any, args: tuple[Any, ...]) -> str:
    """The kind of `Wait` that an operation on the device is; empty for one that waits for nothing."""
    if any("Tensor" not in str(result.type) for result in function._schema.returns):
        return "read"  # such as item, equal or allclose: a number goes back to Python
    name = str(function)
    if name.startswith(("aten.index.", "aten.index_put", "aten._unsafe_index", "aten._index_put_impl_")):
        masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        filled = "put" in name and args[2].numel() == 1  # one value under a mask is written without looking at it
        return "shape" if masked and not filled else ""
    return "shape" if torch.Tag.dynamic_output_shape in function.tags else ""


def _note_copies(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Note copies between the devices."""
    blocks = not kwargs.get("non_blocking", len(args) > 2 and args[2])
    if name.startswith("aten._to_copy."):
        into, given = [torch.device(kwargs.get("device") or args[0].device)], [args[0]]
    else:
        destinations, given = args[:2] if "foreach" in name else ([args[0]], [args[1]])
        into = [destination.device for destination in destinations]
    for device, source in zip(into, given, strict=True):
        if source.device.type == NAME != device.type:
            _note("read", name)
        elif source.device.type != NAME == device.type and blocks:
            _note("upload", name)


def _note(kind: str, operation: str) -> None:
    for device in _backend.entered:
        device.waits.append(Wait(kind, operation, tuple(_functions())))


def _functions() -> Iterator[str]:
    """The functions of proard that are at work, innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            module = Path(code.co_filename).relative_to(PACKAGE).with_suffix("")
            yield ".".join([*module.parts, code.co_name])
        frame = frame.f_back  # type: ignore[assignment]
