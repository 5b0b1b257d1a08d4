"""A kqueue of the library under test, and what it watches."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Callable, Iterator

import build
import pytest
import support
from descriptors import no_more_descriptors_than, open_descriptors
from double import (
    Kqueue,
    close_quietly,
)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ.get("UNIO_KQUEUE_LIBRARY") or build.library(), use_errno=True)


@pytest.fixture
def stack(library: ctypes.CDLL) -> Iterator[contextlib.ExitStack]:
    before = open_descriptors()
    with contextlib.ExitStack() as stack:
        yield stack
    os.close(library.kqueue())  # the double notices closed queues when it makes another
    no_more_descriptors_than(before)


@pytest.fixture
def make(library: ctypes.CDLL, stack: contextlib.ExitStack) -> Callable[[], Kqueue]:
    return lambda: stack.enter_context(contextlib.closing(Kqueue(library)))


@pytest.fixture
def kq(make: Callable[[], Kqueue]) -> Kqueue:
    return make()


@pytest.fixture
def pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    return tuple(stack.enter_context(end) for end in socket.socketpair())  # type: ignore[return-value]


@pytest.fixture
def tcp(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    return tuple(stack.enter_context(end) for end in support.tcp_pair())  # type: ignore[return-value]


@pytest.fixture
def pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Its numbers are closed at the end; a test that closes one itself puts another there."""
    ends = os.pipe()
    for end in ends:
        stack.callback(close_quietly, end)
    return ends
