"""Signals that ask a run to stop: the step is finished, a state is saved, and the process ends with a status of its own."""

import signal
from types import FrameType
from typing import Any

INTERRUPTED = 75  # exit status: stopped by a signal, state saved, --auto_resume goes on
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Interrupts:
    """Inside, the first of SIGINT, SIGTERM and SIGUSR1 is noted in ``name``; a second one has its usual effect."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._put_back()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def ignore_in_worker() -> None:
    """For loader processes: the training process decides when they end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
