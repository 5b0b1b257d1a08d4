"""Operations that tasks of asyncio's await: their results, their errors, and what cancels do to them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
from pathlib import Path

import pytest
import support
from patience import PATIENCE

import unio
import unio.asyncio


def loop_of_mine() -> unio.asyncio.EventLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, unio.asyncio.EventLoop)
    return loop


async def settled() -> None:
    """Return when all that can be done without input has been done."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_an_operation_comes_back_with_its_results_and_its_own_state(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        recv = unio.Recv(loop.join(near), bytearray(8), state="mine")
        far.sendall(b"hello")
        assert await loop.complete(recv) is recv
        assert (bytes(recv.data), recv.state) == (b"hello", "mine")

    run(main())


def test_it_waits_for_what_comes_later_and_may_be_used_again(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        recv = unio.Recv(loop.join(near), bytearray(8))
        for said in (b"one", b"two", b"three"):
            waiting = asyncio.ensure_future(loop.complete(recv))
            await settled()
            assert not waiting.done()
            far.sendall(said)
            assert bytes((await waiting).data) == said

    run(main())


def test_the_task_goes_on_in_its_own_context(run, pair) -> None:
    near, far = pair
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    async def receive(mine: str) -> str:
        name.set(mine)
        await loop_of_mine().complete(unio.Timer(0))
        assert asyncio.current_task() is not None
        return name.get()

    async def main() -> list[str]:
        return await asyncio.gather(*map(receive, "abc"))

    assert run(main()) == list("abc")


def test_the_error_of_the_completion_is_raised_with_a_traceback_of_its_own(run) -> None:
    async def main() -> None:
        loop = loop_of_mine()
        operation = unio.ProcessExit(2**30)
        with pytest.raises(ProcessLookupError) as raised:
            await loop.complete(operation)
        assert raised.value is not operation.error
        assert operation.error is not None
        assert operation.error.__traceback__ is None

    run(main())


def test_a_time_out_is_raised_and_never_early(run, pair) -> None:
    near, _ = pair

    async def main() -> None:
        loop = loop_of_mine()
        began = loop.time()
        recv = unio.Recv(loop.join(near), bytearray(8))
        with pytest.raises(TimeoutError):
            await loop.complete(recv, 0.02)
        assert loop.time() - began >= 0.02
        assert not recv.in_flight

    run(main())


def test_a_cancelled_task_goes_on_when_the_operation_has_ended(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        recv = unio.Recv(loop.join(near), bytearray(8), state="mine")
        ended = []

        async def receive() -> None:
            try:
                await loop.complete(recv)
            except asyncio.CancelledError as error:
                ended.append((recv.in_flight, recv.state, error.args))
                raise

        task = asyncio.ensure_future(receive())
        await settled()
        for _ in range(3):
            task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [(False, "mine", ("enough",))]
        assert isinstance(recv.error, unio.Cancelled)
        far.sendall(b"later")
        assert bytes((await loop.complete(recv)).data) == b"later"  # the cancel took nothing

    run(main())


def test_what_has_won_against_a_cancel_stays_on_the_operation(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        recv = unio.Recv(loop.join(near), bytearray(8))
        task = asyncio.ensure_future(loop.complete(recv))

        def cancel(_: object) -> None:
            # The wait may have returned the receive's completion as well by now, which is yet to be delivered.
            task.cancel()

        await settled()
        loop.port.post(cancel)
        far.sendall(b"hello")
        with pytest.raises(asyncio.CancelledError):
            await task
        data = b"" if recv.error is not None else bytes(recv.data)
        if not data:
            data = bytes((await loop.complete(recv)).data)
        assert data == b"hello"

    run(main())


def test_asyncios_own_time_outs_cancel_the_operation(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        recv = unio.Recv(loop.join(near), bytearray(8))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await loop.complete(recv)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.complete(recv), 0.01)
        assert not recv.in_flight

    run(main())


def test_an_operation_that_another_task_awaits_is_refused_and_undisturbed(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        recv = unio.Recv(loop.join(near), bytearray(8), state="mine")
        first = asyncio.ensure_future(loop.complete(recv))
        await settled()
        with pytest.raises(unio.InFlight):
            await loop.complete(recv)
        far.sendall(b"hello")
        assert bytes((await first).data) == b"hello"
        assert recv.state == "mine"

    run(main())


def test_misuse_leaves_the_operation_as_it_was(run, pair, make_port) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        other = unio.Recv(make_port().associate(near), bytearray(8), state="mine")
        with pytest.raises(unio.NotAssociated):
            await loop.complete(other)
        assert other.state == "mine"
        timer = unio.Timer(0, state="mine")
        with pytest.raises(ValueError, match="time-out"):
            await loop.complete(timer, -1)
        assert timer.state == "mine"
        await loop.complete(timer)
        with pytest.raises(TypeError, match="operation"):
            await loop.complete("no operation")  # type: ignore[type-var]

    run(main())


def test_another_loop_is_told_which_way_to_go(run) -> None:
    async def main() -> None:
        other = unio.asyncio.new_event_loop()
        try:
            timer = unio.Timer(0)
            with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
                await other.complete(timer)
            assert not timer.in_flight
        finally:
            other.close()

        def elsewhere() -> unio.Timer:
            return asyncio.run_coroutine_threadsafe(loop.complete(unio.Timer(0)), loop).result(PATIENCE)

        loop = loop_of_mine()
        timer = await loop.run_in_executor(None, elsewhere)
        assert timer.error is None

    run(main())


def test_a_loop_that_closes_drops_the_operation_and_gives_its_state_back(backend, monkeypatch, pair) -> None:
    monkeypatch.setenv(unio.backends.VARIABLE, backend)
    near, _ = pair
    loop = unio.asyncio.new_event_loop()
    recv = unio.Recv(loop.join(near), bytearray(8), state="mine")
    timer = unio.Timer(3600, state="mine too")
    tasks = [loop.create_task(loop.complete(each)) for each in (recv, timer)]
    loop.run_until_complete(asyncio.sleep(0))
    assert recv.in_flight
    assert timer.in_flight
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del tasks, task
    gc.collect()
    assert (recv.state, timer.state) == ("mine", "mine too")


def test_a_coroutine_that_is_closed_by_hand_cancels_the_operation(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        recv = unio.Recv(loop.join(near), bytearray(8), state="mine")
        coroutine = loop.complete(recv)
        coroutine.send(None)
        assert recv.in_flight
        coroutine.close()
        while recv.in_flight or recv.state != "mine":  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)
        assert isinstance(recv.error, unio.Cancelled)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_await_as_others_do(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        recv = unio.Recv(loop.join(near), bytearray(8))
        task = loop.create_task(loop.complete(recv))
        assert recv.in_flight
        far.sendall(b"hello")
        assert bytes((await task).data) == b"hello"

    run(main())


def test_a_handle_that_skips_what_succeeds_at_once_needs_no_turn(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = loop_of_mine()
        handle = loop.port.associate(near, skip_on_success=True)
        send = unio.Send(handle, b"hello", state="mine")
        await loop.complete(send)
        assert (send.transferred, send.state) == (5, "mine")
        handle.close()

    run(main())
    assert far.recv(8) == b"hello"


def test_polls_files_and_sendfile_are_awaited_too(run, pair, tmp_path: Path) -> None:
    near, far = pair
    (tmp_path / "file").write_bytes(b"content")

    async def main() -> None:
        loop = loop_of_mine()
        handle = loop.join(near)
        with unio.open(tmp_path / "file") as file:
            await loop.complete(unio.SendFile(handle, file))
            assert far.recv(16) == b"content"
            read = await loop.complete(unio.Read(loop.join(file), bytearray(16), 3))
            assert bytes(read.buffer[: read.transferred]) == b"tent"  # type: ignore[index]
        far.sendall(b"!")
        poll = await loop.complete(unio.Poll(handle, unio.Readiness.READABLE))
        assert poll.found & unio.Readiness.READABLE

    run(main())


def test_a_cancel_from_another_thread_comes_through_the_loop(run, pair) -> None:
    near, _ = pair

    async def main() -> None:
        loop = loop_of_mine()
        task = asyncio.ensure_future(loop.complete(unio.Recv(loop.join(near), bytearray(8))))
        await settled()
        threading.Thread(target=lambda: loop.call_soon_threadsafe(task.cancel)).start()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    support.happened()
