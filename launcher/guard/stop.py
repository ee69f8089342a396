"""Requests to stop politely: signals, and a time limit. Torch-free."""

import signal
import time
from types import FrameType
from typing import final

from launcher.ending import Ending, StopRequested

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""What schedulers, people and batch scripts send. All mean the same here: save, then end."""


@final
class StopRequests:
    """Whether this process has been asked to stop. A second SIGINT stops it now."""

    def __init__(self, *, now_on_second_sigint: bool = True) -> None:
        self._signal: signal.Signals | None = None
        self._limit: float | None = None
        self._now_on_second_sigint = now_on_second_sigint
        self._agreed = False

    def listen(self) -> None:
        """Take over the signals of this process. A closed terminal does not end it."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def limit_to(self, seconds: float | None) -> None:
        """Ask for a stop after some seconds from now; None sets no limit."""
        self._limit = None if seconds is None else time.monotonic() + seconds

    @property
    def asked(self) -> bool:
        """Whether this rank has been asked."""
        return self._signal is not None or self._late

    def agree(self, any_rank_asked: bool) -> bool:
        """Whether to stop at this step boundary: every rank passes the same value, and remembers it."""
        self._agreed = self._agreed or any_rank_asked
        return self._agreed

    def finish(self, step: int, total_steps: int) -> None:
        """After the last checkpoint: raises StopRequested where the training ended before its last step."""
        if self._agreed and step < total_steps:
            raise StopRequested(f"{self._reason} after step {step}, which is saved", self._ending)

    @property
    def _late(self) -> bool:
        return self._limit is not None and time.monotonic() > self._limit

    @property
    def _ending(self) -> Ending:
        return "time limit" if self._signal is None and self._late else "stopped by signal"

    @property
    def _reason(self) -> str:
        if self._signal is not None:
            return self._signal.name
        return "time limit" if self._late else "another rank was asked to stop"

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if number == self._signal == signal.SIGINT and self._now_on_second_sigint:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)
