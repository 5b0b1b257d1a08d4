"""Signals: the operation, and the handlers of the program's own while its main thread waits."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import support
from descriptors import no_more_descriptors_than, open_descriptors
from platforms import WINDOWS

import unio
from unio.backends.common.accelerator import has_fast_path

pytestmark = pytest.mark.process_wide

posix = pytest.mark.skipif(WINDOWS, reason="Windows has no such signal, or none that another process sends")

NUMBERS = [signal.SIGTERM, signal.SIGINT] if WINDOWS else [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]

NUMBER = signal.SIGTERM

anywhere = pytest.mark.skipif(
    not (has_fast_path or WINDOWS), reason="without the part in C, Python lets only the main thread take a signal"
)


def send(number: int = NUMBER) -> None:
    """Have this process be sent a signal."""
    if WINDOWS:
        signal.raise_signal(number)
    else:
        os.kill(os.getpid(), number)


def let_handlers_run() -> None:
    """Return when the handlers of what was sent have run: Python runs them between two steps of the main thread."""
    for _ in range(3):
        pass


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test, the process does what it did before."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    assert {number: signal.getsignal(number) for number in NUMBERS} == before


@contextlib.contextmanager
def counted(number: int = NUMBER) -> Iterator[list[int]]:
    """The program's own handler, which notes each signal that comes to it."""
    found: list[int] = []
    with support.signal_handler(number, lambda came, _: found.append(came)):
        yield found


# The operation


@pytest.mark.clause("O17", "C1")
@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_completes_with_its_key_and_no_bytes(port: unio.Port, number: signal.Signals) -> None:
    key, state = object(), object()
    operation = unio.Signal(number, key, state=state)
    port.submit(operation)
    support.assert_idle(port)
    assert operation.in_flight
    send(number)
    assert support.completion(port) == (key, operation, 0, None)
    assert (operation.number, operation.handle, operation.state) == (number, None, state)


@pytest.mark.clause("O17")
@pytest.mark.parametrize("waits", ["main thread", "another thread", "several threads"])
def test_a_signal_wakes_whichever_thread_waits(port: unio.Port, waits: str) -> None:
    operation = unio.Signal(NUMBER)
    port.submit(operation)
    if waits == "main thread":
        main = threading.main_thread()
        sender = support.Background(lambda: (support.until(lambda: support.is_inside_wait(main)), send()))
        assert [found.operation for found in support.batch(port)] == [operation]
        sender.result()
        return
    threads = [support.Background(port.wait) for _ in range(1 if waits == "another thread" else 4)]
    for each in threads:
        support.asleep(each)
    send()
    support.until(lambda: not all(each.is_alive() for each in threads))
    [ended] = [each for each in threads if not each.is_alive()]
    assert [found.operation for found in ended.result()] == [operation]
    port.close()
    for each in threads:
        if each is not ended:
            with pytest.raises(unio.PortClosed):
                each.result()


@anywhere
@pytest.mark.clause("O17")
def test_a_signal_is_submitted_and_cancelled_in_any_thread(port: unio.Port) -> None:
    with counted() as handled:
        operation = unio.Signal(NUMBER)
        support.Background(port.submit, operation).result()
        send()
        assert support.completion(port) == (None, operation, 0, None)
        support.Background(port.submit, operation).result()
        assert support.Background(port.cancel, operation).result()
        support.assert_cancelled(support.completion(port))
        assert handled == []
        send()
        let_handlers_run()
        assert handled == [NUMBER]


@pytest.mark.skipif(has_fast_path or WINDOWS, reason="there any thread may take a signal")
@pytest.mark.clause("O17")
def test_without_the_part_in_c_another_thread_is_told_that_it_can_take_no_signal(port: unio.Port) -> None:
    operation = unio.Signal(NUMBER)
    support.Background(port.submit, operation).result()
    error = support.completion(port).error
    assert error is not None
    assert error.errno == errno.ENOTSUP
    port.submit(operation)
    send()
    assert support.completion(port).error is None
    support.Background(port.submit, operation).result()  # the port has the signal by now
    send()
    assert support.completion(port).error is None


@pytest.mark.clause("O17")
def test_what_comes_between_a_completion_and_the_next_submit_completes_that_one_once(port: unio.Port) -> None:
    operation = unio.Signal(NUMBER)
    port.submit(operation)
    send()
    support.completion(port)
    for another in (operation, unio.Signal(NUMBER), operation):
        for _ in range(3):
            send()
        assert support.run(port, another).error is None
        port.submit(another)
        support.assert_idle(port)
        send()
        assert support.completion(port).operation is another


@pytest.mark.clause("O17", "S8")
def test_a_time_out_ends_it_and_gives_the_signal_not_back(port: unio.Port) -> None:
    with counted() as handled:
        operation = unio.Signal(NUMBER)
        found = support.run(port, operation, timeout=0.01)
        assert isinstance(found.error, TimeoutError)
        send()
        assert support.run(port, operation, timeout=0).error is None
        assert handled == []


@pytest.mark.clause("O17", "X1")
def test_a_signal_that_came_before_the_cancel_wins(port: unio.Port) -> None:
    operation = unio.Signal(NUMBER)
    port.submit(operation)
    send()
    port.cancel(operation)
    assert support.completion(port) == (None, operation, 0, None)


@pytest.mark.clause("O17")
@pytest.mark.parametrize("when", ["in flight", "idle", "another of its number"])
def test_a_cancel_gives_the_signal_back(port: unio.Port, when: str) -> None:
    with counted() as handled:
        operation = unio.Signal(NUMBER)
        port.submit(operation)
        if when == "in flight":
            assert port.cancel(operation)
            support.assert_cancelled(support.completion(port))
        else:
            send()
            support.completion(port)
            assert not port.cancel(operation if when == "idle" else unio.Signal(NUMBER))
        assert handled == []
        send()
        let_handlers_run()
        assert handled == [NUMBER]
        port.submit(operation)
        send()
        assert support.completion(port).operation is operation
        assert handled == [NUMBER]


@pytest.mark.clause("O17", "P7")
@pytest.mark.parametrize("how", ["close", "drop"])
def test_the_end_of_the_port_gives_the_signal_back(make_port: Any, how: str) -> None:
    with counted() as handled:
        port = make_port()
        port.submit(unio.Signal(NUMBER))
        send()
        support.completion(port)
        if how == "close":
            port.close()
        del port
        other = make_port()
        if how == "drop":
            return
        send()
        let_handlers_run()
        assert handled == [NUMBER]
        other.submit(again := unio.Signal(NUMBER))
        send()
        assert support.completion(other).operation is again


@posix
@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="this system has no signals of real time")
@pytest.mark.clause("O17")
def test_a_signal_that_has_no_name_is_called_by_its_number(port: unio.Port) -> None:
    number = signal.SIGRTMIN + 1
    port.submit(operation := unio.Signal(number))
    error = support.run(port, unio.Signal(number)).error
    assert error is not None
    assert error.errno == errno.EBUSY
    assert str(int(number)) in str(error)
    send(number)
    assert support.completion(port).operation is operation


@pytest.mark.clause("O17")
def test_a_second_signal_of_the_same_number_is_told_that_it_is_taken(make_port: Any) -> None:
    first, second = make_port(), make_port()
    operation = unio.Signal(NUMBER)
    first.submit(operation)
    for other in (first, second):
        error = support.run(other, unio.Signal(NUMBER)).error
        assert error is not None
        assert error.errno == errno.EBUSY
        assert NUMBER.name in str(error)
    send()
    assert support.completion(first).operation is operation
    assert support.run(second, unio.Signal(NUMBER)).error is not None
    first.close()
    second.submit(operation)
    send()
    assert support.completion(second).operation is operation


@pytest.mark.clause("O17")
def test_signals_of_several_numbers_complete_each_by_itself(make_port: Any) -> None:
    ports = [make_port() for _ in NUMBERS]
    operations = [unio.Signal(number) for number in NUMBERS]
    for port, operation in zip(ports, operations, strict=True):
        port.submit(operation)
    for number in NUMBERS:
        send(number)
    for port, operation in zip(ports, operations, strict=True):
        assert support.completion(port).operation is operation


@pytest.mark.clause("S5", "S6")
def test_a_signal_in_flight_can_not_be_changed_and_has_another_number_afterwards(port: unio.Port) -> None:
    operation = unio.Signal(NUMBERS[0])
    port.submit(operation)
    with pytest.raises(unio.InFlight):
        operation.number = NUMBERS[1]
    with pytest.raises(unio.InFlight):
        port.submit(operation)
    send(NUMBERS[0])
    support.completion(port)
    operation.number = NUMBERS[1]
    port.submit(operation)
    send(NUMBERS[1])
    assert support.completion(port).operation is operation


@pytest.mark.clause("O17")
@pytest.mark.parametrize("number", [0, -1, 9999, 10**30, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL])
def test_a_number_that_can_not_be_waited_for_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=r"no signal|at fault|at least 0"):
        unio.Signal(number)


@posix
@pytest.mark.clause("O17")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP", "SIGBUS"])
def test_a_signal_that_can_not_be_caught_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        unio.Signal(getattr(signal, name))


@pytest.mark.clause("O17")
@pytest.mark.parametrize("number", [None, "SIGTERM", 15.0, True])
def test_what_is_no_number_is_refused(number: Any) -> None:
    with pytest.raises(TypeError):
        unio.Signal(number)


# The program's own handling


@pytest.mark.clause("O17")
def test_a_handler_that_the_program_sets_meanwhile_is_called_and_stays(port: unio.Port) -> None:
    operation = unio.Signal(NUMBER)
    port.submit(operation)
    before = signal.getsignal(NUMBER) if has_fast_path or WINDOWS else signal.SIG_DFL
    with counted() as handled:
        send()
        let_handlers_run()
        assert handled == [NUMBER]
        assert support.run(port, unio.Signal(signal.SIGINT), timeout=0).error is not None
        port.cancel(operation)
        support.completion(port)
        send()
        let_handlers_run()
        assert handled == [NUMBER] * 2
    signal.signal(NUMBER, before)


@pytest.mark.clause("O17")
def test_the_next_submit_takes_the_signal_from_a_handler_that_was_set_meanwhile(port: unio.Port) -> None:
    operation = unio.Signal(NUMBER)
    port.submit(operation)
    send()
    support.completion(port)
    before = signal.getsignal(NUMBER)
    found: list[int] = []
    signal.signal(NUMBER, lambda number, _: found.append(number))
    port.submit(operation)
    send()
    assert support.completion(port).operation is operation
    assert found == []
    port.cancel(operation)
    send()
    let_handlers_run()
    assert found == [NUMBER]
    signal.signal(NUMBER, before if has_fast_path or WINDOWS else signal.SIG_DFL)


@posix
@pytest.mark.clause("O17")
@pytest.mark.parametrize("handling", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_the_system_did_by_itself_it_does_again(port: unio.Port, handling: signal.Handlers) -> None:
    with support.signal_handler(signal.SIGURG, handling):  # whose default is nothing
        port.submit(operation := unio.Signal(signal.SIGURG))
        send(signal.SIGURG)
        assert support.completion(port).operation is operation
        port.cancel(operation)
        send(signal.SIGURG)
        assert signal.getsignal(signal.SIGURG) is handling


@posix
@pytest.mark.skipif(not has_fast_path, reason="without the part in C, only handlers of Python's are set again")
@pytest.mark.clause("O17")
def test_faulthandlers_own_handler_is_set_again(port: unio.Port, resources: contextlib.ExitStack) -> None:
    reader, writer = os.pipe()
    said = resources.enter_context(os.fdopen(reader, "rb"))
    with os.fdopen(writer, "wb") as file:
        faulthandler.register(signal.SIGUSR1, file)
        try:
            port.submit(operation := unio.Signal(signal.SIGUSR1))
            send(signal.SIGUSR1)
            assert support.completion(port).operation is operation
            port.cancel(operation)
            send(signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert b"most recent call first" in said.read()


# Children


@support.needs_fork
@pytest.mark.clause("O17", "P10")
def test_a_forked_child_has_the_programs_own_handling_again_and_the_parent_hears_nothing(port: unio.Port) -> None:
    operation = unio.Signal(signal.SIGUSR1)

    def child() -> None:
        send(signal.SIGUSR1)
        let_handlers_run()
        assert handled == [signal.SIGUSR1]
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with unio.Port() as own:
            own.submit(again := unio.Signal(signal.SIGUSR1))
            send(signal.SIGUSR1)
            assert support.completion(own).operation is again

    with counted(signal.SIGUSR1) as handled:
        port.submit(operation)
        support.in_child(child)
        support.assert_idle(port)
        assert handled == []
        send(signal.SIGUSR1)
        assert support.completion(port).operation is operation


LOOKS = """
import signal
assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
"""


@posix
@pytest.mark.clause("O17")
def test_a_program_that_is_started_inherits_neither_mask_nor_descriptors(make_port: Any) -> None:
    before = open_descriptors()
    port = make_port()
    port.submit(unio.Signal(signal.SIGUSR1))
    subprocess.run([sys.executable, "-S", "-E", "-c", LOOKS], check=True, timeout=support.PATIENCE, close_fds=False)
    assert not any(os.get_inheritable(number) for number in open_descriptors().keys() - before.keys())


# The main thread hears of signals while it waits


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
