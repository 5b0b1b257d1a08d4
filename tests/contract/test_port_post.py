"""The clauses P of the contract: posts, also those of signal handlers, and keys."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import weakref
from collections import Counter
from typing import Any

import pytest
from support import (
    PATIENCE,
    Background,
    assert_idle,
    batch,
    completion,
    completions,
    inside_wait,
    interval_timer,
    needs_interval_timer,
    signal_handler,
    succeed,
)

import unio

# Clause P8: packets of the caller's own


@pytest.mark.clause("P8", "C1")
def test_a_post_comes_back_verbatim(port: unio.Port) -> None:
    key, operation = object(), object()
    packets = [
        (key, operation, 7),
        (key, None, 0),
        (None, None, 0),
        (None, key, -1),
        ("key", ["list"], 2**70),
    ]
    for packet in packets:
        port.post(*packet)
    found = completions(port, len(packets))
    for packet, each in zip(packets, found, strict=True):
        assert type(each) is unio.Completion
        assert each.key is packet[0]
        assert each.operation is packet[1]
        assert each.transferred == packet[2]
        assert each.error is None
    port.post("only a key")
    assert completion(port) == ("only a key", None, 0, None)


@pytest.mark.clause("P8")
def test_a_posted_operation_is_not_submitted_by_that(port: unio.Port) -> None:
    timer = unio.Timer(3600)
    port.post("key", timer, 3)
    assert not timer.in_flight
    assert completion(port) == ("key", timer, 3, None)
    assert timer.transferred == 0
    port.submit(timer)
    port.post("key", timer)
    assert completion(port).operation is timer
    assert timer.in_flight, "its own completion is still to come"


@pytest.mark.clause("P8")
def test_a_post_never_blocks_however_many_nobody_takes(port: unio.Port) -> None:
    count = 200_000
    for number in range(count):
        port.post(number)
    assert [found.key for found in completions(port, count)] == list(range(count))
    assert_idle(port)


@pytest.mark.clause("P8")
def test_threads_get_their_work_and_are_told_to_exit_by_posts(port: unio.Port) -> None:
    results: list[int] = []

    def serve() -> None:
        while True:
            for number, _, _, _ in batch(port, limit=1):
                if number is None:
                    return
                results.append(number * number)

    servers = [Background(serve) for _ in range(4)]
    for number in range(100):
        port.post(number)
    for _ in servers:
        port.post(None)
    for server in servers:
        server.result()
    assert sorted(results) == [number * number for number in range(100)]


def signal_main_thread(handled: threading.Event) -> None:
    """Send the main thread a signal in its wait, again and again until its handler has run.

    One is not enough: Python calls a handler between two instructions, and a signal that comes just before a system
    call has to wait for the end of that call.
    """
    inside_wait(threading.main_thread())
    while not handled.is_set():
        os.kill(os.getpid(), signal.SIGUSR1)
        handled.wait(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill sends no such signal here")
@pytest.mark.clause("P8")
@pytest.mark.process_wide
def test_a_signal_handler_ends_the_wait_of_the_main_thread_by_a_post(port: unio.Port) -> None:
    handled = threading.Event()

    def handle_signal(*_: object) -> None:
        if not handled.is_set():
            port.post("signal")
            handled.set()

    with signal_handler(signal.SIGUSR1, handle_signal):
        for _ in range(20):
            handled.clear()
            sender = Background(signal_main_thread, handled)
            assert completion(port).key == "signal"
            sender.result()
    assert_idle(port)


@needs_interval_timer
@pytest.mark.clause("P8")
@pytest.mark.process_wide
def test_a_signal_handler_posts_whatever_the_main_thread_is_doing(port: unio.Port, make_pair: Any) -> None:
    # The handler runs between two instructions of the main thread, also within a post, a submit or a wait: one that
    # takes a lock which the interrupted call holds would wait for itself for ever.
    near, far = make_pair(local=True)
    handle = port.associate(near, "socket")
    posted = 0

    def handle_signal() -> None:
        nonlocal posted
        port.post("signal")
        posted += 1

    expected: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    with interval_timer(0.0005, handle_signal):
        while posted < 300:
            timer = unio.Timer(0, "timer")
            received = unio.Recv(handle, bytearray(1))
            port.submit(timer)
            port.submit(received)
            port.post("post")
            if expected["post"] % 2:
                far.send(b"x")
            else:
                port.cancel(received)
            expected.update(("timer", "socket", "post"))
            seen.update(found.key for found in port.wait(0.0001))
            seen.update(found.key for found in port.wait(0))
    expected["signal"] = posted
    seen.update(found.key for found in completions(port, expected.total() - seen.total()))
    assert seen == expected
    assert_idle(port)


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill sends no such signal here")
@pytest.mark.clause("P8")
@pytest.mark.process_wide
def test_an_exception_of_a_signal_handler_leaves_the_wait_and_the_port_works_on(
    port: unio.Port, make_pair: Any
) -> None:
    class Interrupted(Exception):
        pass

    handled = threading.Event()

    def interrupt(*_: object) -> None:
        if not handled.is_set():
            handled.set()
            raise Interrupted

    near, far = make_pair()
    handle = port.associate(near)
    received = unio.Recv(handle, bytearray(8))
    port.submit(received)
    with signal_handler(signal.SIGUSR1, interrupt):
        sender = Background(signal_main_thread, handled)
        with pytest.raises(Interrupted):
            port.wait(PATIENCE)
        sender.result()
    far.send(b"data")
    assert completion(port).operation is received
    port.post("next")
    assert Background(completion, port).result().key == "next"


# Clause P9: keys


class Hostile:
    """A key that fails whatever looks at it."""

    def _fail(self, *_: object) -> Any:
        raise AssertionError("a key is not to be looked at")

    __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __call__ = _fail


@pytest.mark.clause("P9")
@pytest.mark.parametrize("key", [None, False, 0, "text", (), [], {}, object(), Hostile(), Hostile], ids=lambda key: "")
def test_a_key_is_any_object_and_comes_back_as_the_same(port: unio.Port, make_pair: Any, key: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near, key)
    far.send(b"x")
    operations = [unio.Send(handle, b"x"), unio.Recv(handle, bytearray(1)), unio.Timer(0, key)]
    for operation in operations:
        port.submit(operation)
    port.post(key)
    found = completions(port, 4)
    assert len(found) == 4
    assert all(each.key is key for each in found)
    assert handle.key is key
    assert all(operation.key is key for operation in operations)
    handle.close()


@pytest.mark.clause("P9")
def test_handles_may_share_a_key(port: unio.Port, make_pair: Any) -> None:
    key = object()
    for _ in range(3):
        near, _far = make_pair(local=True)
        port.submit(unio.Send(port.associate(near, key), b"x"))
    assert [found.key for found in completions(port, 3)] == [key] * 3


@pytest.mark.clause("P9")
def test_a_key_is_not_kept_longer_than_its_handle(port: unio.Port, make_pair: Any) -> None:
    class Key:
        pass

    key = Key()
    near, _ = make_pair()
    handle = port.associate(near, key)
    succeed(port, unio.Send(handle, b"x"))
    port.submit(unio.Recv(handle, bytearray(1)))
    handle.close()
    assert completion(port).key is key
    gone = weakref.ref(key)
    del key, handle
    gc.collect()
    assert gone() is None
