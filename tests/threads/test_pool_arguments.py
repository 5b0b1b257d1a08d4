"""unio.Pool: wrong arguments are refused where they are given, and no thread has been started."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import support

import unio


def handle(_: object) -> None:
    """Handle nothing."""


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        (lambda port: (port, 1), TypeError, "its handler with each completion, and int can't be called"),
        (lambda port: (port, "handle"), TypeError, "str can't be called"),
        (lambda port: (handle, port), TypeError, r"Pool\(port, handler, ...\) needs a port first, not function"),
        (lambda _: (None, handle), TypeError, "needs a port first, not NoneType"),
        (lambda port: (port, handle, 1.5), TypeError, "the number of threads must be an int, not float"),
        (lambda port: (port, handle, True), TypeError, "the number of threads must be an int, not bool"),
        (lambda port: (port, handle, "2"), TypeError, "the number of threads must be an int, not str"),
        (lambda port: (port, handle, 0), ValueError, "the number of threads must be between 1 and 65536, not 0"),
        (lambda port: (port, handle, -1), ValueError, "between 1 and 65536, not -1"),
        (lambda port: (port, handle, 65537), ValueError, "between 1 and 65536, not 65537"),
        (lambda port: (port, handle, 10**400), ValueError, "between 1 and 65536, not an int of 1329 bits"),
    ],
)
def test_what_is_no_port_handler_or_number_is_refused_at_once(
    port: unio.Port, arguments: Callable[[unio.Port], tuple[Any, ...]], error: type[Exception], what: str
) -> None:
    before = threading.active_count()
    with pytest.raises(error, match=what):
        unio.Pool(*arguments(port))
    assert threading.active_count() == before


@pytest.mark.parametrize("wrong", ["1", None, True, 1j])
def test_a_grace_that_is_no_number_of_seconds_is_refused(port: unio.Port, wrong: Any) -> None:
    with pytest.raises(TypeError, match="the grace must be a number of seconds"):
        unio.Pool(port, handle, grace=wrong)


@pytest.mark.parametrize("grace", [-1.0, float("nan")])
def test_a_grace_that_is_no_time_is_refused(port: unio.Port, grace: float) -> None:
    with pytest.raises(ValueError, match="grace"):
        unio.Pool(port, handle, grace=grace)


@pytest.mark.parametrize("grace", [10**400, float("inf")], ids=["int", "float"])
def test_a_grace_may_be_of_any_length(port: unio.Port, grace: float) -> None:
    timer = unio.Timer(0.01)
    seen: list[unio.Completion] = []
    with unio.Pool(port, seen.append, 2, grace=grace) as pool:
        port.submit(timer)
        assert pool.submit(int, "3").result(support.PATIENCE) == 3
    assert [found.operation for found in seen] == [timer]


def test_a_pool_needs_an_open_port(backend: str) -> None:
    port = unio.Port(backend=backend)
    port.close()
    with pytest.raises(unio.PortClosed):
        unio.Pool(port, handle)


def test_a_call_of_any_kind_is_a_handler(port: unio.Port) -> None:
    class Handler:
        def __call__(self, _: unio.Completion) -> None:
            done.set()

    done = threading.Event()
    for handler in (Handler(), lambda _: done.set(), Handler().__call__):
        done.clear()
        with unio.Pool(port, handler, 1):
            port.post("x")
            assert done.wait(support.PATIENCE)
