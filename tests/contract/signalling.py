"""Sending this process signals, for the tests of those that wait for them and of those that are to hear of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
import support
from platforms import WINDOWS

posix = pytest.mark.skipif(WINDOWS, reason="Windows has no such signal, or none that another process sends")

NUMBERS = [signal.SIGTERM, signal.SIGINT] if WINDOWS else [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]

NUMBER = signal.SIGTERM


def send(number: int = NUMBER) -> None:
    """Have this process be sent a signal."""
    if WINDOWS:
        signal.raise_signal(number)
    else:
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def handlers_as_before() -> Iterator[None]:
    """After a test, the process does what it did before."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    assert {number: signal.getsignal(number) for number in NUMBERS} == before


@contextlib.contextmanager
def counted(number: int = NUMBER) -> Iterator[list[int]]:
    """The program's own handler, which notes each signal that comes to it."""
    found: list[int] = []
    with support.signal_handler(number, lambda came, _: found.append(came)):
        yield found
