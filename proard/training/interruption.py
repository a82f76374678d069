"""Ctrl-C, SIGTERM and SIGHUP: finish the step, save, then exit."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from proard.common.distributed import world_size
from proard.common.errors import Stopped


class Interrupted(Stopped):
    """Training stopped by a signal, after its state was saved; exit code 130 (SIGINT), 143 (SIGTERM), 129 (SIGHUP)."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message, exit_code=128 + signal_number)


class SignalWatch:
    """Remembers the first SIGINT, SIGTERM or SIGHUP, so that the training loop can stop between two steps.

    SIGHUP stays ignored where nohup has it so. A second Ctrl-C interrupts at once. Outside of the main thread, where
    Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            hang_up = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none
            for number in dict.fromkeys((signal.SIGINT, signal.SIGTERM, hang_up)):
                if number == hang_up and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            if error is not None and number == signal.SIGTERM and world_size() > 1:
                continue  # torchrun ends what is left of a job by SIGTERM; this process is about to say why it leaves
            signal.signal(number, handler)
