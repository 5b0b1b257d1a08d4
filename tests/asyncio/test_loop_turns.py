"""Callbacks, timers and tasks: in which order they run, what they raise, and what wakes the loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import weakref

import pytest
import support
from patience import PATIENCE
from wine import wine_row

import unio
import unio.asyncio


@pytest.fixture
def reported(run):
    """Runs a coroutine, and gives what was reported to the loop's exception handler meanwhile."""

    def reported(main) -> list[dict]:
        found: list[dict] = []

        async def with_handler() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
            await main

        run(with_handler())
        return found

    return reported


def test_callbacks_run_in_their_order_with_their_arguments_each_in_its_context(run) -> None:
    variable = contextvars.ContextVar("variable", default="outer")
    ran: list[tuple] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        other = contextvars.copy_context()
        other.run(variable.set, "other")
        loop.call_soon(lambda *given: ran.append((*given, variable.get())), 1, 2)
        variable.set("inner")
        loop.call_soon(lambda *given: ran.append((*given, variable.get())), 3)
        loop.call_soon(lambda: ran.append((variable.get(),)), context=other)
        await asyncio.sleep(0)

    run(main())
    assert ran == [(1, 2, "outer"), (3, "inner"), ("other",)]


def test_what_a_callback_schedules_runs_in_a_later_turn(run) -> None:
    ran: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(ran.append, 2))
        loop.call_soon(ran.append, 1)
        for _ in range(3):
            await asyncio.sleep(0)

    run(main())
    assert ran == [1, 2]


def test_timers_run_by_their_times_and_never_early(run) -> None:
    ran: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        done = loop.create_future()
        loop.call_later(0.03, lambda: (ran.append(loop.time() - began >= 0.03), done.set_result(None)))
        for number in reversed(range(20)):
            loop.call_at(began + 0.02 + number / 1e5, ran.append, number)
        loop.call_later(0.01, ran.append, "first")
        await done

    run(main())
    assert ran == ["first", *range(20), True]


def test_what_was_cancelled_does_not_run_and_lets_its_callback_go(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ran: list[int] = []
        argument = set[int]()
        soon = loop.call_soon(ran.append, argument)
        later = [loop.call_later(0.001 * number, ran.append, number) for number in range(500)]
        reference = weakref.ref(argument)
        del argument
        for handle in (soon, *later[:-1]):
            handle.cancel()
            handle.cancel()
            assert handle.cancelled()
        gc.collect()
        assert reference() is None
        later[-1].cancel()
        await asyncio.sleep(0.01)
        assert not ran

    run(main())


def test_many_timers_that_were_cancelled_do_not_stay(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        kept = loop.call_later(3600, print)
        references = []
        for _ in range(1000):
            handle = loop.call_later(3000, print)
            references.append(weakref.ref(handle))
            handle.cancel()
        del handle
        await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)
        assert sum(reference() is not None for reference in references) < 500
        assert not kept.cancelled()
        kept.cancel()

    run(main())


def test_handles_are_those_of_asyncio(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        soon, later = loop.call_soon(print), loop.call_later(60, print)
        assert isinstance(soon, asyncio.Handle)
        assert isinstance(later, asyncio.TimerHandle)
        assert loop.time() < later.when() <= loop.time() + 60
        assert "print" in repr(soon)
        assert "when=" in repr(later)
        soon.cancel()
        later.cancel()
        assert "cancelled" in repr(soon)

    run(main())


def test_wrong_arguments_are_refused_where_they_are_given(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for wrong in (loop.call_soon, lambda: loop.call_later(1), lambda: loop.call_later("1", print)):
            with pytest.raises(TypeError):
                wrong()
        with pytest.raises(TypeError):
            loop.call_soon(print, unknown=1)
        with pytest.raises(TypeError):
            loop.call_later(None, print)

    run(main())


def test_a_callback_that_raises_is_reported_and_the_next_one_runs(reported) -> None:
    ran: list[int] = []

    def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(fail)
        loop.call_soon(ran.append, 1)
        loop.call_later(0, fail)
        await asyncio.sleep(0.01)

    found = reported(main())
    assert [type(each["exception"]) for each in found] == [ZeroDivisionError] * 2
    assert all("fail" in each["message"] and isinstance(each["handle"], asyncio.Handle) for each in found)
    assert ran == [1]


def test_a_handler_of_an_operation_that_raises_is_reported_and_the_next_one_is_called(reported) -> None:
    ran: list[unio.Completion] = []

    def fail(_: unio.Completion) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.port.post(fail)
        loop.port.post(ran.append)
        await asyncio.sleep(0.01)

    assert [type(each["exception"]) for each in reported(main())] == [ZeroDivisionError]
    assert len(ran) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_comes_out_of_the_loop_which_may_go_on_and_has_lost_nothing(
    backend, monkeypatch, kind: type[BaseException]
) -> None:
    monkeypatch.setenv(unio.backends.VARIABLE, backend)
    loop = unio.asyncio.new_event_loop()
    ran: list[object] = []

    def fail(_: unio.Completion | None = None) -> None:
        raise kind

    try:
        loop.port.post(fail)
        loop.port.post(lambda _: ran.append("delivered"))
        loop.call_soon(fail)
        loop.call_soon(ran.append, "called")
        for _ in range(2):
            with pytest.raises(kind):
                loop.run_forever()
        loop.run_until_complete(asyncio.sleep(0.01))
        assert sorted(map(str, ran)) == ["called", "delivered"]
    finally:
        loop.close()


def test_a_loop_that_is_stopped_before_it_runs_makes_one_turn(backend, monkeypatch) -> None:
    monkeypatch.setenv(unio.backends.VARIABLE, backend)
    loop = unio.asyncio.new_event_loop()
    ran: list[int] = []
    loop.call_soon(ran.append, 1)
    loop.call_soon(lambda: loop.call_soon(ran.append, 2))
    loop.stop()
    loop.run_forever()
    assert ran == [1]
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon_threadsafe(print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)
    loop.close()


def test_other_threads_wake_the_loop_and_none_of_their_calls_is_lost(run) -> None:
    count, threads = 2000, 4

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ran: list[int] = []
        done = loop.create_future()

        def note(number: int) -> None:
            ran.append(number)
            if len(ran) == count * threads:
                done.set_result(None)

        def call() -> None:
            for number in range(count):
                assert isinstance(loop.call_soon_threadsafe(note, number), asyncio.Handle)
                if not number % 100:
                    time.sleep(0.0002)  # so that the loop falls asleep now and then

        workers = [threading.Thread(target=call) for _ in range(threads)]
        for worker in workers:
            worker.start()
        await done
        for worker in workers:
            worker.join(PATIENCE)
        assert sorted(ran) == sorted(list(range(count)) * threads)

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill does not send signals there")
def test_a_handler_of_a_signal_may_schedule_and_wakes_the_loop(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        before = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(done.set_result, None))
        try:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            await done
        finally:
            signal.signal(signal.SIGUSR1, before)

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill does not send signals there")
def test_an_interrupt_cancels_the_main_task_of_a_runner(run) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    ended: list[bool] = []

    async def main() -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    try:
        with pytest.raises(KeyboardInterrupt):
            run(main())
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended


def test_loops_of_several_threads_go_on_at_once(backend, monkeypatch) -> None:
    monkeypatch.setenv(unio.backends.VARIABLE, backend)
    meeting = threading.Barrier(3, timeout=PATIENCE)
    found: list[int] = []

    async def main(number: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, meeting.wait)
        for _ in range(100):
            await asyncio.sleep(0)
        found.append(number)

    threads = [threading.Thread(target=lambda n=n: unio.asyncio.run(main(n))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(found) == [0, 1, 2]


@wine_row("leave-port")
def test_a_loop_after_a_loop_may_have_the_same_sockets(run, pair) -> None:
    near, far = pair
    near.setblocking(False)

    async def main(said: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(loop.sock_recv(near, 100))
        await asyncio.sleep(0.01)
        far.sendall(said)
        return await waiting

    for said in (b"one", b"two"):
        assert run(main(said)) == said


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_begin_within_the_call_that_makes_them(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        ran: list[int] = []

        async def work() -> None:
            ran.append(1)
            await asyncio.sleep(0)
            ran.append(2)

        task = asyncio.create_task(work(), name="named")
        assert (ran, task.get_name()) == ([1], "named")
        await task
        assert ran == [1, 2]

    run(main())


def test_tasks_have_the_name_context_and_factory_that_they_are_given(run) -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def work() -> int:
        return variable.get()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(variable.set, 7)
        assert await loop.create_task(work(), context=context) == 7
        assert loop.create_task(asyncio.sleep(0), name="named").get_name() == "named"
        assert asyncio.create_task(asyncio.sleep(0)).get_name().startswith("Task-")
        made: list[object] = []

        def factory(loop, coroutine, **given):
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **given)

        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        await loop.create_task(asyncio.sleep(0))
        assert len(made) == 1
        loop.set_task_factory(None)
        with pytest.raises(TypeError):
            loop.create_task()  # noqa: RUF006 - it makes none

    run(main())


def test_debug_mode_tells_of_slow_callbacks_and_of_calls_from_other_threads(run, caplog) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0
        with caplog.at_level(logging.WARNING, "asyncio"):
            await asyncio.sleep(0.001)
        assert "Executing" in caplog.text
        handle = loop.call_soon(print)
        assert __file__ in repr(handle)
        handle.cancel()
        assert "print" in repr(handle)
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            await loop.run_in_executor(None, loop.call_soon, print)
        with pytest.raises(TypeError, match="call_soon"):
            loop.call_soon(main)
        loop.set_debug(False)

    run(main())


def test_input_and_output_go_on_while_callbacks_schedule_callbacks(run, pair) -> None:
    near, far = pair
    near.setblocking(False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        goes_on = True

        def again() -> None:
            if goes_on:
                loop.call_soon(again)

        again()
        waiting = asyncio.ensure_future(loop.sock_recv(near, 100))
        await asyncio.sleep(0.01)
        far.sendall(b"heard")
        assert await waiting == b"heard"
        goes_on = False

    run(main())


def test_what_is_put_off_to_the_end_of_a_turn_is_done_once_before_the_loop_sleeps(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ran: list[int] = []
        loop.before_wait(lambda: (ran.append(1), loop.before_wait(lambda: ran.append(2))))
        assert not ran
        await asyncio.sleep(0.001)
        assert ran == [1, 2]

    run(main())


def test_closing_a_loop_lets_go_of_all_that_was_scheduled(backend, monkeypatch) -> None:
    monkeypatch.setenv(unio.backends.VARIABLE, backend)
    loop = unio.asyncio.new_event_loop()
    argument = threading.Event()
    reference = weakref.ref(argument)
    loop.call_soon(print, argument)
    loop.call_later(60, print, argument)
    loop.call_soon_threadsafe(print, argument)
    del argument
    loop.close()
    gc.collect()
    assert reference() is None


def test_a_loop_that_is_dropped_open_warns_and_leaves_no_descriptor(backend, monkeypatch, resources) -> None:
    monkeypatch.setenv(unio.backends.VARIABLE, backend)

    def drop() -> None:
        unio.asyncio.new_event_loop()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        drop()


@wine_row("leave-port")
def test_a_closed_loop_leaves_sockets_that_have_joined_open_and_as_they_were(run, pair) -> None:
    near, far = pair
    near.settimeout(PATIENCE)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.port.submit(unio.Recv(loop.join(near), state=lambda _: None))

    run(main())
    assert near.gettimeout() == PATIENCE
    far.sendall(b"x")
    support.arrived(near)
    assert near.recv(10) == b"x"
    assert isinstance(near, socket.socket)
