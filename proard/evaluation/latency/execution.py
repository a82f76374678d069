"""How networks run when their latency is measured: batch size, precision, runtime, threads and device."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from proard.common.device import resolve_device
from proard.common.environment import processor_name
from proard.common.errors import UserError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RUNTIMES = ("eager", "export", "onnxruntime")


@dataclass(frozen=True)
class Execution:
    """How networks run when they are timed.

    Attributes:
        batch_size: images at once.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of weights and activations.
        runtime: ``eager`` (PyTorch modules), ``export`` (a torch.export program) or ``onnxruntime`` (on the CPU).
        threads: inside an operator; None is what PyTorch chooses.
        device: ``auto``, ``cpu``, ``cuda`` ...
    """

    batch_size: int = 1
    dtype: str = "float32"
    runtime: str = "eager"
    threads: int | None = None
    device: str = "auto"

    def resolved(self) -> Execution:
        """The same, checked, with its threads and its device named.

        Raises:
            UserError: a value out of range, or a runtime that is not installed.
        """
        for name, value, valid in (("dtype", self.dtype, DTYPES), ("runtime", self.runtime, RUNTIMES)):
            if value not in valid:
                raise UserError(f"--{name} {value}: unknown{nearest(value, valid)}")
        for name, number in (("batch-size", self.batch_size), ("threads", self.threads)):
            if number is not None and number < 1:
                raise UserError(f"--{name} {number}: must be at least 1")
        onnx = self.runtime == "onnxruntime"
        if onnx and self.dtype != "float32":
            raise UserError(f"--dtype {self.dtype}: runtime onnxruntime is measured in float32")
        if onnx and find_spec("onnxruntime") is None:
            raise UserError("--runtime onnxruntime: needs the package 'onnxruntime'; pip install 'proard[onnx]'")
        if onnx and self.device not in ("auto", "cpu"):
            raise UserError(f"--device {self.device}: runtime onnxruntime is measured on the CPU")
        device = "cpu" if onnx else str(resolve_device(self.device))
        return replace(self, threads=self.threads or torch.get_num_threads(), device=device)

    @property
    def device_name(self) -> str:
        """Of the processor or the graphics card."""
        return torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else processor_name()

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON, with the device's own name."""
        return {**asdict(self), "device": self.device_name}

    def synchronize(self) -> None:
        """Wait until the device is done."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Run with these threads, and without gradients; the number of threads is put back."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    def prepare(self, module: nn.Module, shape: Sequence[int]) -> Callable[[], Any]:
        """What to time: one pass of a module, which it changes, over an input of this shape."""
        dtype = DTYPES[self.dtype]
        generator = torch.Generator().manual_seed(0)
        example = torch.rand(*shape, generator=generator).to(self.device, dtype)
        module = module.eval().requires_grad_(False).to(self.device, dtype)
        if self.runtime == "onnxruntime":
            return self._session(module, example)
        if self.runtime == "export":
            module = torch.export.export(module, (example,)).module()
        return lambda: module(example)

    def _session(self, module: nn.Module, example: torch.Tensor) -> Callable[[], Any]:
        import onnxruntime

        model = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Not the newer exporter, which needs a second for each of hundreds of blocks; onnxruntime makes the same
            # fused operators of both.
            torch.onnx.export(module, (example,), model, dynamo=False, input_names=["images"])  # type: ignore[arg-type]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads or 0, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # many sessions share the processor
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.getvalue(), options, providers=["CPUExecutionProvider"])
        inputs = {"images": example.numpy()}
        return lambda: session.run(None, inputs)
