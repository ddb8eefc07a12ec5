"""Ctrl-C without a torn state: the running step ends first."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """While its block runs, the first Ctrl-C only sets `is_requested`; a second one interrupts at once.

    Outside the main thread, where Python allows no signal handlers, Ctrl-C keeps its usual effect.

    Attributes:
        is_requested (`bool`): Whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._previous: Any = None
        self._is_installed = False

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._request)
            self._is_installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_installed:
            signal.signal(signal.SIGINT, self._previous)
            self._is_installed = False

    def _request(self, signal_number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
