"""Signals: the operation, and the program's own handling of them around it."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import support
from descriptors import open_descriptors
from platforms import WINDOWS
from signalling import NUMBER, NUMBERS, counted, handlers_as_before, posix, send

import unio
from unio.backends.common.accelerator import has_fast_path

pytestmark = pytest.mark.process_wide

anywhere = pytest.mark.skipif(
    not (has_fast_path or WINDOWS), reason="without the part in C, Python lets only the main thread take a signal"
)


def let_handlers_run() -> None:
    """Return when the handlers of what was sent have run: Python runs them between two steps of the main thread."""
    for _ in range(3):
        pass


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    with handlers_as_before():
        yield


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
