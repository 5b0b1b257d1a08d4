"""The main thread hears of signals while it waits: handlers of the program's own run at once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import support
from descriptors import no_more_descriptors_than, open_descriptors
from signalling import NUMBERS, counted, handlers_as_before, posix, send

import unio

pytestmark = pytest.mark.process_wide


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    with handlers_as_before():
        yield


@pytest.mark.clause("P12")
@pytest.mark.parametrize("shares", [False, True], ids=["leads", "is parked"])
def test_what_the_default_handler_of_ctrl_c_raises_ends_a_wait_of_the_main_thread(
    port: unio.Port, *, shares: bool
) -> None:
    waiting = support.Background(port.wait) if shares else None
    if waiting is not None:
        support.asleep(waiting)
    main = threading.main_thread()
    sender = support.Background(lambda: (support.until(lambda: support.is_inside_wait(main)), send(signal.SIGINT)))
    with support.signal_handler(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        port.wait(support.PATIENCE)
    sender.result()
    if waiting is not None:
        port.post("end")
        waiting.result()


@contextlib.contextmanager
def another_leads(port: unio.Port) -> Iterator[Callable[[], list[unio.Completion]]]:
    """Another thread is in the kernel for the port, and leaves what comes to the main thread, whose wait this gives."""
    took = threading.Semaphore(0)
    wait = support.bare_wait(port)

    def leads() -> None:
        while True:
            for found in port.wait():
                if found.key == "leave":
                    return
                port.post(found.key)
                took.acquire(timeout=support.PATIENCE)  # else this quick thread would be left it again and again

    def take() -> list[unio.Completion]:
        found = wait()
        took.release()
        return found

    other = support.Background(leads)
    support.asleep(other)
    try:
        yield take
    finally:
        while other.is_alive():
            port.post("leave")
            took.release()
            time.sleep(0.001)
        other.result()


def sent_and_heard(port: unio.Port, wait: Callable[[], list[unio.Completion]], times: int) -> None:
    """Have the main thread wait again and again, and a signal come each time, whose handler posts."""
    heard = threading.Semaphore(0)
    generator = random.Random(1)
    lost = 0

    def each() -> None:
        nonlocal lost
        for _ in range(times):
            for _ in range(generator.randrange(60)):
                pass
            send(NUMBERS[-1])
            if not heard.acquire(timeout=support.PATIENCE):
                lost += 1
                break
        port.post("end")

    with support.signal_handler(NUMBERS[-1], lambda *_: port.post("signal")):
        sender = support.Background(each)
        keys: set[Any] = set()
        while "end" not in keys:
            keys = {found.key for found in wait()}
            if "signal" in keys:
                heard.release()
        sender.result()
    assert not lost


@posix
@pytest.mark.clause("P12")
def test_no_signal_is_slept_over_however_shortly_before_the_sleep_it_comes(port: unio.Port) -> None:
    sent_and_heard(port, support.bare_wait(port), 5000)


@posix
@pytest.mark.clause("P12")
def test_none_is_slept_over_where_another_thread_is_in_the_kernel(port: unio.Port) -> None:
    with another_leads(port) as wait:
        sent_and_heard(port, wait, 500)


@posix
@pytest.mark.clause("P12")
@pytest.mark.parametrize("shares", [False, True], ids=["leads", "is parked"])
def test_a_signal_that_another_thread_is_given_wakes_the_main_thread_for_its_handler(
    port: unio.Port, *, shares: bool
) -> None:
    main = threading.main_thread()

    def act() -> None:
        support.asleep(main)
        signal.raise_signal(signal.SIGUSR1)  # which interrupts this thread, and no call of the main one's
        support.until(lambda: handled)
        port.post("end")

    with another_leads(port) if shares else contextlib.nullcontext(), counted(signal.SIGUSR1) as handled:
        sender = support.Background(act)
        assert support.batch(port)
        sender.result()


@posix
@pytest.mark.clause("P12")
@pytest.mark.parametrize("shares", [False, True], ids=["leads", "is parked"])
def test_a_descriptor_of_the_programs_own_is_told_all_the_same(
    port: unio.Port, resources: contextlib.ExitStack, *, shares: bool
) -> None:
    reader, writer = os.pipe()
    told = resources.enter_context(os.fdopen(reader, "rb", buffering=0))
    resources.callback(os.close, writer)
    os.set_blocking(writer, False)
    main = threading.main_thread()

    def act() -> bytes:
        support.until(lambda: support.is_inside_wait(main))
        send(signal.SIGUSR1)
        found: bytes = told.read(100)  # while the wait goes on
        port.post("end")
        return found

    with another_leads(port) if shares else contextlib.nullcontext(), counted(signal.SIGUSR1) as handled:
        before = signal.set_wakeup_fd(writer)
        try:
            sender = support.Background(act)
            assert support.batch(port)
            assert sender.result() == bytes([signal.SIGUSR1])
            assert handled == [signal.SIGUSR1]
        finally:
            assert signal.set_wakeup_fd(before) == writer


@posix
@pytest.mark.clause("P12")
def test_after_a_wait_python_writes_to_no_descriptor_of_the_ports(port: unio.Port) -> None:
    port.wait(0.001)
    for _ in range(3):
        port.post("key")
        port.wait()
        port.wait(0.001)
    assert signal.set_wakeup_fd(-1) == -1


@support.needs_fork
@pytest.mark.clause("P12", "P10")
def test_a_child_forked_while_the_main_thread_waits_writes_to_no_descriptor_of_the_parents(port: unio.Port) -> None:
    def child() -> None:
        assert signal.set_wakeup_fd(-1) == -1

    main = threading.main_thread()

    def forks() -> None:
        support.until(lambda: support.is_inside_wait(main))
        support.in_child(child)
        port.post("end")

    thread = support.Background(forks)
    assert support.batch(port)
    thread.result()


@posix
@pytest.mark.clause("P12", "P7")
def test_a_port_closed_while_the_main_thread_waits_leaves_no_descriptor(make_port: Any) -> None:
    before = open_descriptors()
    main = threading.main_thread()
    for _ in range(5):
        port = make_port()
        closer = support.Background(lambda: (support.until(lambda: support.is_inside_wait(main)), port.close()))  # noqa: B023
        with pytest.raises(unio.PortClosed):
            port.wait()
        closer.result()
    no_more_descriptors_than(before)
    assert signal.set_wakeup_fd(-1) == -1
