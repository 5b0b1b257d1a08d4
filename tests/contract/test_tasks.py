"""The clauses H5 to H9 of the contract: coroutines that Port.start has begun."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import traceback
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from support import Background, Hook, assert_idle, running

import unio


def run(port: unio.Port, *coroutines: Coroutine[Any, Any, object]) -> list[unio.Task[Any]]:
    """Run coroutines until all of them have ended."""

    async def stop_afterwards() -> None:
        for task in tasks:
            with contextlib.suppress(BaseException):
                await task
        port.stop()

    tasks = [port.start(coroutine) for coroutine in coroutines]
    port.start(stop_afterwards())
    Background(port.run).result()
    return tasks


def run_unawaited(port: unio.Port, *coroutines: Coroutine[Any, Any, object]) -> list[unio.Task[Any]]:
    """The same with nobody who awaits them."""

    async def stop_afterwards() -> None:
        while not all(task.done for task in tasks):
            await unio.Timer(0)
        port.stop()

    tasks = [port.start(coroutine) for coroutine in coroutines]
    port.start(stop_afterwards())
    Background(port.run).result()
    return tasks


async def result_of(awaitable: Awaitable[Any]) -> object:
    """What an await gives or raises."""
    try:
        return await awaitable
    except BaseException as error:  # noqa: BLE001 - it is what is asked for
        return error


@pytest.mark.clause("H5")
def test_await_gives_the_operation_back_when_it_has_completed(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    far.sendall(b"hello")

    async def echo() -> None:
        recv = unio.Recv(handle, state="mine")
        assert await recv is recv
        assert bytes(recv.data) == b"hello"
        assert recv.state == "mine"
        assert (await unio.Send(handle, b"answer")).transferred == 6
        far.sendall(b"again")
        assert (await recv).transferred == 5

    [task] = run(port, echo())
    assert task.done
    assert far.recv(10) == b"answer"


@pytest.mark.clause("H5")
def test_a_coroutine_begins_when_it_is_its_turn(port: unio.Port) -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append("task")

    port.post(lambda _: seen.append("packet before"))
    port.start(work())
    port.post(lambda _: seen.append("packet behind"))
    port.stop()
    assert seen == []
    Background(port.run).result()
    assert seen == ["packet before", "task", "packet behind"]


@pytest.mark.clause("H5", "S8")
def test_a_time_out_is_raised_and_the_operation_keeps_its_error_without_a_traceback(
    port: unio.Port, make_pair: Any
) -> None:
    near, _far = make_pair()
    recv = unio.Recv(port.associate(near))
    errors: list[object] = []

    async def wait() -> None:
        errors.append(await result_of(recv.within(0.01)))

    run(port, wait())
    [error] = errors
    assert isinstance(error, TimeoutError)
    assert error is not recv.error
    assert recv.error is not None
    assert (error.args, type(error)) == (recv.error.args, type(recv.error))
    assert recv.error.__traceback__ is None


@pytest.mark.clause("H5", "S3")
def test_what_submit_raises_is_raised_by_await_and_leaves_the_other_flight_alone(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair()
    recv = unio.Recv(port.associate(near))
    other = unio.Port(backend=port.backend)
    foreign = unio.Recv(other.associate(make_pair()[0]), state="mine")
    seen: list[object] = []

    async def first() -> None:
        seen.append((await recv).transferred)

    async def second() -> None:
        seen.append(type(await result_of(recv)))
        seen.append(type(await result_of(foreign)))
        far.sendall(b"x")

    with other:
        run(port, first(), second())
    assert seen == [unio.InFlight, unio.NotAssociated, 1]
    assert foreign.state == "mine"


@pytest.mark.clause("H5", "S4")
def test_what_succeeds_within_submit_goes_on_at_once_and_lets_others_have_their_turn(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair()
    handle = port.associate(near, skip_on_success=True)
    order: list[str] = []
    ended = False

    async def busy() -> None:
        while not ended:
            await unio.Send(handle, b"x")
            order.append("x")

    async def other() -> None:
        nonlocal ended
        await unio.Timer(0)
        ended = True

    run(port, busy(), other())
    assert ended
    assert order
    assert len(far.recv(1 << 20)) > 0


@pytest.mark.clause("H5")
def test_under_the_event_loop_of_another_library_await_says_what_to_use(port: unio.Port, make_pair: Any) -> None:
    handle = port.associate(make_pair()[0])

    async def task() -> None: ...

    async def wait() -> None:
        for what in unio.Recv(handle), unio.Recv(handle).within(1), unio.Timer(0), port.start(task()):
            error = await result_of(what)
            assert isinstance(error, RuntimeError)
            assert "port.start(coroutine)" in str(error)

    asyncio.run(wait())


@pytest.mark.clause("H5")
def test_what_is_of_another_library_is_refused_in_a_task(port: unio.Port) -> None:
    class Foreign:
        def __await__(self) -> Any:
            yield self

    seen: list[object] = []

    async def wait() -> None:
        seen.append(await result_of(Foreign()))

    run(port, wait())
    [error] = seen
    assert isinstance(error, TypeError)
    assert "Foreign" in str(error)


@pytest.mark.clause("H5")
@pytest.mark.parametrize("wrong", [None, result_of, 5, "text"])
def test_start_takes_a_coroutine_and_nothing_else(port: unio.Port, wrong: Any) -> None:
    with pytest.raises(TypeError, match="start takes a coroutine"):
        port.start(wrong)
    assert port.tasks() == []


@pytest.mark.clause("H6")
def test_a_task_runs_in_a_context_of_its_own(port: unio.Port) -> None:
    variable = contextvars.ContextVar("variable", default="nothing")
    seen: list[str] = []

    async def work(name: str) -> None:
        seen.append(variable.get())
        variable.set(name)
        await unio.Timer(0)
        seen.append(variable.get())

    variable.set("outside")
    run(port, work("a"), work("b"))
    assert sorted(seen) == ["a", "b", "outside", "outside"]
    assert variable.get() == "outside"


@pytest.mark.clause("H6", "H2")
def test_many_tasks_in_many_threads_each_see_what_they_did_before(port: unio.Port) -> None:
    counts: dict[int, int] = {}

    async def work(number: int) -> None:
        counts[number] = 0
        for _ in range(50):
            before = counts[number]
            await unio.Timer(0)
            counts[number] = before + 1

    async def all_of_them() -> None:
        for task in [port.start(work(number)) for number in range(20)]:
            await task
        port.stop()

    threads = running(port, 4)
    port.start(all_of_them())
    for thread in threads:
        thread.result()
    assert counts == dict.fromkeys(range(20), 50)
    assert port.tasks() == []


@pytest.mark.clause("H7")
def test_await_of_a_task_gives_its_result_or_raises_its_error(port: unio.Port, hook: Hook) -> None:
    seen: list[object] = []

    async def give() -> int:
        await unio.Timer(0)
        return 5

    async def fail() -> None:
        await unio.Timer(0)
        raise ValueError("mine")

    async def wait() -> None:
        giver, failer = port.start(give()), port.start(fail())
        seen.append(await giver)
        seen.append(await giver)  # which is done
        again = port.start(fail())
        seen.append(await result_of(again))
        seen.append(await result_of(failer))

    run(port, wait())
    assert seen[:2] == [5, 5]
    assert [str(each) for each in seen[2:]] == ["mine", "mine"]
    assert len(hook.errors) <= 1  # of the one that nobody awaited just then


@pytest.mark.clause("H7")
def test_what_a_task_raises_is_reported_with_its_name(
    port: unio.Port, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        await unio.Timer(0)
        raise ValueError("mine")

    frames: list[str] = []

    def report(arguments: threading.ExceptHookArgs) -> None:
        frames.extend(frame.name for frame in traceback.extract_tb(arguments.exc_traceback))
        hook(arguments)

    monkeypatch.setattr(threading, "excepthook", report)
    run_unawaited(port, fail())
    [error] = hook.errors
    assert str(error) == "mine"
    assert frames == ["fail"]
    assert "fail" in error.__notes__[0]


@pytest.mark.clause("H7")
def test_system_exit_in_a_task_of_another_thread_is_reported(port: unio.Port, hook: Hook) -> None:
    async def leave() -> None:
        raise SystemExit

    port.start(leave())
    port.stop()
    Background(port.run).result()
    [error] = hook.errors
    assert isinstance(error.__cause__, SystemExit)


@pytest.mark.clause("H7", "H3")
def test_keyboard_interrupt_in_a_task_of_the_main_thread_comes_out_of_run(port: unio.Port, hook: Hook) -> None:
    async def interrupt() -> None:
        raise KeyboardInterrupt

    task = port.start(interrupt())
    with pytest.raises(KeyboardInterrupt):
        port.run()
    assert task.done
    assert hook.errors == []


@pytest.mark.clause("H7", "C2")
def test_a_task_that_has_failed_keeps_nothing_alive(port: unio.Port, hook: Hook) -> None:
    class Thing:
        pass

    async def fail() -> None:
        thing = Thing()
        gone.append(weakref.ref(thing))
        await unio.Timer(0)
        raise ValueError

    gone: list[weakref.ref[Thing]] = []
    gc.disable()
    try:
        [task] = run_unawaited(port, fail())
        assert len(hook.errors) == 1
        hook.errors.clear()
        assert task.done
        assert gone[0]() is None
    finally:
        gc.enable()


@pytest.mark.clause("H7")
def test_a_task_that_was_ended_here_says_nothing(port: unio.Port, make_pair: Any, hook: Hook) -> None:
    near, _far = make_pair()
    handle = port.associate(near)

    async def receive() -> None:
        await unio.Recv(handle)

    async def close() -> None:
        handle.close()

    run_unawaited(port, receive(), close())
    assert hook.errors == []


@pytest.mark.clause("H8")
def test_cancel_raises_where_the_task_waits_and_once(port: unio.Port, make_pair: Any) -> None:
    near, _far = make_pair()
    handle = port.associate(near)
    seen: list[object] = []

    async def receive() -> None:
        seen.append(await result_of(unio.Recv(handle)))
        seen.append(await result_of(unio.Timer(0)))

    async def cancel() -> None:
        task = port.start(receive())
        await unio.Timer(0.01)
        task.cancel()
        await task

    run(port, cancel())
    assert isinstance(seen[0], unio.Cancelled)
    assert isinstance(seen[1], unio.Timer)


@pytest.mark.clause("H8")
def test_a_cancel_before_the_await_has_that_raise(port: unio.Port) -> None:
    seen: list[object] = []

    async def work() -> None:
        seen.append(await result_of(unio.Timer(3600)))

    task = port.start(work())
    task.cancel()
    run(port)
    assert isinstance(seen[0], unio.Cancelled)


@pytest.mark.clause("H8")
def test_the_await_of_another_task_is_cancelled_without_that_one(port: unio.Port) -> None:
    seen: list[object] = []

    async def sleep() -> None:
        await unio.Timer(3600)

    async def wait(other: unio.Task[None]) -> None:
        seen.append(await result_of(other))
        seen.append(await result_of(unio.Timer(0)))

    async def cancel() -> None:
        other = port.start(sleep())
        task = port.start(wait(other))
        await unio.Timer(0.01)
        task.cancel()
        await task
        assert not other.done
        other.cancel()

    run(port, cancel())
    assert isinstance(seen[0], unio.Cancelled)
    assert isinstance(seen[1], unio.Timer)


@pytest.mark.clause("H9")
def test_a_task_that_awaits_is_closed_with_its_port(port: unio.Port, make_pair: Any, hook: Hook) -> None:
    near, _far = make_pair()
    handle = port.associate(near)
    seen: list[object] = []

    async def wait(what: Callable[[], Awaitable[Any]]) -> None:
        try:
            await what()
        finally:
            seen.append(threading.current_thread())
            seen.append(await result_of(unio.Timer(0)))

    async def never() -> None:
        await unio.Recv(handle)

    tasks = [port.start(never())]
    tasks.append(port.start(wait(lambda: unio.Timer(3600))))
    tasks.append(port.start(wait(lambda: tasks[0])))
    port.stop()
    Background(port.run).result()
    not_begun = port.start(never())
    assert not any(task.done for task in tasks)
    port.close()
    assert all(task.done for task in [*tasks, not_begun])
    assert port.tasks() == []
    assert seen[::2] == [threading.current_thread()] * 2
    assert all(isinstance(error, unio.PortClosed) for error in seen[1::2])
    assert hook.errors == []


@pytest.mark.clause("H9")
def test_a_task_may_close_its_port_and_its_next_await_raises(port: unio.Port, hook: Hook) -> None:
    seen: list[object] = []

    async def close() -> None:
        port.close()
        seen.append(await result_of(unio.Timer(0)))
        await unio.Timer(0)

    task = port.start(close())
    with pytest.raises(unio.PortClosed):
        Background(port.run).result()
    assert task.done
    assert isinstance(seen[0], unio.PortClosed)
    assert hook.errors == []


@pytest.mark.clause("H9", "P7")
def test_nothing_starts_on_a_closed_port(port: unio.Port) -> None:
    async def work() -> None: ...

    port.close()
    coroutine = work()
    with pytest.raises(unio.PortClosed):
        port.start(coroutine)
    with pytest.raises(RuntimeError, match="already awaited"):
        coroutine.send(None)  # it was closed, so that Python doesn't say that nobody has awaited it
    assert port.tasks() == []


@pytest.mark.clause("P9")
def test_a_task_shows_what_it_is_at(port: unio.Port) -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append(repr(port.tasks()[0]))

    task = port.start(work())
    seen.append(repr(task))
    port.stop()
    Background(port.run).result()
    seen.append(repr(task))
    where = "test_a_task_shows_what_it_is_at.<locals>.work"
    assert seen == [f"<unio.Task {where} {at}>" for at in ("waits", "runs", "done")]
    assert_idle(port)
