"""Ctrl-C and termination without a torn state: the running step ends first."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what `kill`, batch systems and shutting down send."""


class Interruption:
    """While its block runs, the first of [`SIGNALS`] only sets `is_requested`; a second one interrupts at once.

    Outside the main thread, where Python allows no signal handlers, signals keep their usual effect.

    Attributes:
        is_requested (`bool`): Whether a signal came.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _request(self, signal_number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
