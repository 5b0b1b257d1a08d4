"""unio.Pool: threads that run a handler over a port."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent import futures
from typing import Any

import pytest
from pools import Gate, Record, run
from support import (
    PATIENCE,
    Hook,
    assert_idle,
    in_threads,
    recv_exactly,
    restless,
    until,
)

import unio

MakePair = Callable[..., tuple[socket.socket, socket.socket]]


# Completions


def test_the_handler_gets_each_completion_once_and_one_thread_gets_them_in_order(port: unio.Port) -> None:
    record = Record()
    with unio.Pool(port, record, threads=1):
        for number in range(1000):
            port.post(number, "what", number + 1)
    assert record.seen == [(number, "what", number + 1, None) for number in range(1000)]
    assert_idle(port)


def test_the_handler_gets_operations_and_may_submit_the_next(port: unio.Port, make_pair: MakePair) -> None:
    near, far = make_pair()
    handle = port.associate(near, "echo")

    def echo(found: unio.Completion) -> None:
        key, operation, transferred, error = found
        if isinstance(error, unio.Cancelled):  # the pool is being shut down
            return
        assert (key, error) == ("echo", None)
        if isinstance(operation, unio.Recv):
            port.submit(unio.Send(handle, bytes(operation.buffer[:transferred])))
        else:
            port.submit(unio.Recv(handle, bytearray(100)))

    with unio.Pool(port, echo, grace=0):
        port.submit(unio.Recv(handle, bytearray(100)))
        for word in b"one", b"two", b"three":
            far.sendall(word)
            assert recv_exactly(far, len(word)) == word


def test_there_are_two_threads_for_each_processor_unless_told(port: unio.Port, threads_before: Any) -> None:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with unio.Pool(port, Record()):
        assert len(set(threading.enumerate()) - threads_before) == 2 * available
    with unio.Pool(port, Record(), threads=3):
        assert len(set(threading.enumerate()) - threads_before) == 3


@pytest.mark.parametrize(("count", "error"), [(2, RuntimeError), (1, KeyboardInterrupt), (2, KeyboardInterrupt)])
def test_a_thread_that_can_not_be_started_ends_those_that_were(
    port: unio.Port, threads_before: Any, monkeypatch: pytest.MonkeyPatch, count: int, error: type[BaseException]
) -> None:
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if len(started) < count:
            started.append(thread)
            start_really(thread)
            if error is RuntimeError or len(started) < count:
                return
        raise error("no more threads")  # a signal handler's as the thread is there already

    start_really = threading.Thread.start
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(error, match="no more threads"):
            unio.Pool(port, Record(), 4)
    assert len(started) == count
    assert not [thread for thread in started if thread.is_alive()]
    assert_idle(port)


def test_an_idle_pool_keeps_no_completion_alive(port: unio.Port) -> None:
    class Key:
        pass

    key = Key()
    gone = weakref.ref(key)
    with unio.Pool(port, lambda _: None):
        port.post(key)
        del key
        until(lambda: (gc.collect() and False) or gone() is None)


def test_many_threads_handle_each_of_many_packets_once(port: unio.Port) -> None:
    record = Record()
    with restless(), unio.Pool(port, record, threads=16) as pool:

        def post(thread: int) -> list[futures.Future[int]]:
            calls = []
            for number in range(200):
                port.post((thread, number))
                calls.append(pool.submit(pow, number, 2))
            return calls

        for calls in in_threads(8, post):
            assert [call.result(PATIENCE) for call in calls] == [number**2 for number in range(200)]
    assert sorted(record.keys) == [(thread, number) for thread in range(8) for number in range(200)]
    assert_idle(port)


def test_without_a_handler_the_state_of_each_operation_is_called(port: unio.Port) -> None:
    record = Record()
    timer = unio.Timer(0, state=record)
    with unio.Pool(port) as pool:
        port.submit(timer)
        port.post(record)
        assert pool.submit(int, "1").result(PATIENCE) == 1
    assert {found.operation for found in record.seen} == {timer, None}


@pytest.mark.parametrize("handler", [None, Record()], ids=["states", "one handler"])
def test_tasks_go_on_in_the_threads_of_a_pool(port: unio.Port, handler: Record | None) -> None:
    threads: list[str] = []

    async def work() -> None:
        for _ in range(3):
            await unio.Timer(0)
            threads.append(threading.current_thread().name)

    with unio.Pool(port, handler):
        port.start(work())
    assert len(threads) == 3
    assert all(name.startswith("unio-") for name in threads)
    assert not handler or not handler.seen


def test_a_handler_that_is_a_coroutine_function_is_refused_with_what_to_use(port: unio.Port) -> None:
    async def handle(_: unio.Completion) -> None: ...

    with pytest.raises(TypeError, match=r"port\.start\(coroutine\)"):
        unio.Pool(port, handle)


# The cap


def test_a_call_may_wait_for_another_one_when_it_says_so(backend: str, resources: contextlib.ExitStack) -> None:
    port = resources.enter_context(unio.Port(backend=backend, concurrency=1))

    def countdown(number: int) -> list[int]:
        if not number:
            return []
        with port.blocking():
            return [number, *pool.submit(countdown, number - 1).result(PATIENCE)]

    with unio.Pool(port, Record(), threads=8) as pool:
        assert pool.submit(countdown, 7).result(PATIENCE) == [7, 6, 5, 4, 3, 2, 1]


# Exceptions


def test_what_a_handler_raises_is_reported_with_the_completion_and_the_thread_goes_on(
    port: unio.Port, hook: Hook
) -> None:
    def fail(found: unio.Completion) -> None:
        raise ValueError(found.transferred)

    with unio.Pool(port, fail, threads=1):
        for number in range(3):
            port.post("the key", transferred=number)
    assert [(type(error), error.args) for error in hook.errors] == [(ValueError, (number,)) for number in range(3)]
    for number, error in enumerate(hook.errors):
        [note] = error.__notes__
        assert f"Completion(key='the key', operation=None, transferred={number}, error=None)" in note


def test_what_a_handler_raises_is_printed_unless_told(port: unio.Port, capfd: pytest.CaptureFixture[str]) -> None:
    # pytest has a hook of its own, so that this is for another process.
    program = (
        "import unio\n"
        "with unio.Port() as port, unio.Pool(port, lambda found: 1 / found.transferred):\n"
        "    port.post('the key')"
    )
    done = run(port, program)
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stderr
    assert "Completion(key='the key'" in done.stderr


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_no_exception_ends_a_thread_without_a_word(port: unio.Port, hook: Hook, raised: type[BaseException]) -> None:
    seen: list[Any] = []

    def fail(found: unio.Completion) -> None:
        seen.append(found.key)
        raise raised

    with unio.Pool(port, fail, threads=1):
        port.post(1)
        port.post(2)
    assert seen == [1, 2]
    assert len(hook.errors) == 2
    for error in hook.errors:
        assert not isinstance(error, SystemExit)  # which the default hook passes over
        assert isinstance(error if raised is not SystemExit else error.__cause__, raised)


def test_a_hook_that_raises_itself_costs_no_thread_and_the_repr_of_a_key_is_not_asked_for(
    port: unio.Port, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Key:
        def __repr__(self) -> str:
            raise ValueError("a broken repr")  # which would be reported in the place of what the handler raised

    def broken(_: object) -> None:
        raise ValueError("a broken hook")

    def fail(found: unio.Completion) -> None:
        raise ValueError(f"handler {found.transferred}")

    monkeypatch.setattr(threading, "excepthook", broken)
    with unio.Pool(port, fail, threads=1) as pool:
        port.post(Key(), transferred=1)
        port.post("key", transferred=2)
        assert pool.submit(int, "3").result(PATIENCE) == 3
    said = capsys.readouterr().err
    for expected in "key=<Key>", "a broken hook", "handler 1", "handler 2":
        assert expected in said
    assert "a broken repr" not in said


# Context

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


def test_threads_run_in_copies_of_the_context_in_which_the_pool_was_made(port: unio.Port) -> None:
    seen = []

    def handle(_: object) -> None:
        seen.append(variable.get())
        variable.set("the handler's")

    def make() -> unio.Pool:
        variable.set("the maker's")
        return unio.Pool(port, handle, threads=1)

    context = contextvars.copy_context()
    with context.run(make):
        port.post("key")
    assert seen == ["the maker's"]
    assert context[variable] == "the maker's"
    assert variable.get() == "nothing"


def test_a_call_runs_in_a_copy_of_the_context_in_which_it_was_submitted(port: unio.Port) -> None:
    def call() -> str:
        found = variable.get()
        variable.set("the call's")
        return found

    def submit(text: str) -> futures.Future[str]:
        variable.set(text)
        return pool.submit(call)

    with unio.Pool(port, Record(), threads=1) as pool:
        for text in "one", "two":
            context = contextvars.copy_context()
            assert context.run(submit, text).result(PATIENCE) == text
            assert context[variable] == text
        assert pool.submit(call).result(PATIENCE) == "nothing"


# Calls, in the manner of concurrent.futures


def test_a_call_gets_its_arguments_and_its_future_the_result_or_the_exception(port: unio.Port) -> None:
    with unio.Pool(port, Record()) as pool:
        assert isinstance(pool, futures.Executor)
        assert pool.submit(int, "ff", base=16).result(PATIENCE) == 255
        failed = pool.submit(int, "none")
        assert isinstance(failed.exception(PATIENCE), ValueError)
        assert isinstance(pool.submit(sys.exit).exception(PATIENCE), SystemExit)
        assert list(pool.map(pow, [2, 3, 4], [5, 2, 1], timeout=PATIENCE)) == [32, 9, 4]
        assert pool.submit(threading.current_thread).result(PATIENCE) is not threading.current_thread()


def test_calls_and_completions_take_their_turns_in_one_queue(port: unio.Port) -> None:
    turns = []
    gate = Gate()
    with unio.Pool(port, lambda found: turns.append(found.key), threads=1) as pool:
        pool.submit(gate)
        for number in range(0, 100, 2):
            port.post(number)
            pool.submit(turns.append, number + 1)
        gate.go.set()
    assert turns == list(range(100))


def test_a_call_that_no_thread_has_begun_can_be_cancelled(port: unio.Port) -> None:
    called = []
    gate = Gate()
    with unio.Pool(port, Record(), threads=1) as pool:
        running = pool.submit(gate)
        assert gate.is_entered()
        waiting = pool.submit(called.append, "cancelled")
        last = pool.submit(called.append, "last")
        assert not running.cancel()
        assert waiting.cancel()
        gate.go.set()
        last.result(PATIENCE)
    assert called == ["last"]


def test_the_future_of_a_failed_call_is_freed_without_the_garbage_collector(port: unio.Port) -> None:
    class Failure(Exception):
        pass

    def fail() -> None:
        raise Failure

    with unio.Pool(port, Record(), threads=1) as pool:
        gc.disable()
        try:
            failed = pool.submit(fail)
            assert isinstance(failed.exception(PATIENCE), Failure)
            gone = weakref.ref(failed)
            del failed
            pool.submit(int).result(PATIENCE)  # so the thread is done with the former call
            assert gone() is None
        finally:
            gc.enable()
