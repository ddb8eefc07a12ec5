"""Ctrl-C is a request first, and an interrupt the second time."""

import signal
import threading

import pytest

from hf_custom_decoder.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_a_request(number: signal.Signals) -> None:
    with Interruption() as interruption:
        assert not interruption.is_requested
        signal.raise_signal(number)
        assert interruption.is_requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_interrupts(number: signal.Signals) -> None:
    with Interruption():
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handler_is_given_back_even_after_an_error() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]

    def fail() -> None:
        with Interruption():
            assert all(signal.getsignal(number) != old for number, old in zip(numbers, before, strict=True))
            raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        fail()
    assert [signal.getsignal(number) for number in numbers] == before


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
