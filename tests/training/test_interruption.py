"""Ctrl-C is a request first, and an interrupt the second time."""

import signal
import threading

import pytest

from hf_custom_decoder.training.interruption import Interruption


def test_first_signal_is_a_request() -> None:
    with Interruption() as interruption:
        assert not interruption.is_requested
        signal.raise_signal(signal.SIGINT)
        assert interruption.is_requested


def test_second_signal_interrupts() -> None:
    with Interruption():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handler_is_given_back_even_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)

    def fail() -> None:
        with Interruption():
            assert signal.getsignal(signal.SIGINT) != before
            raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        fail()
    assert signal.getsignal(signal.SIGINT) == before


def test_other_threads_leave_the_handler_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Interruption():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
