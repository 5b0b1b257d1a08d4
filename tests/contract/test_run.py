"""Port.run, which gives completions to their handlers, and the coroutines that it runs."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

import unio


def test_run_calls_the_state_of_each_operation_with_its_completion(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    seen: list[unio.Completion] = []

    def received(completion: unio.Completion) -> None:
        seen.append(completion)
        port.stop()

    recv = unio.Recv(port.associate(near, "key"), state=received)
    port.submit(recv)
    far.sendall(b"hello")
    port.run()
    assert [(each.key, each.operation, each.transferred, each.error) for each in seen] == [("key", recv, 5, None)]


def test_a_coroutine_goes_on_when_what_it_awaits_has_completed(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    seen: list[object] = []

    async def echo() -> None:
        recv = unio.Recv(handle, state="mine")
        assert await recv is recv
        seen.append(bytes(recv.data))
        assert recv.state == "mine"
        seen.append((await unio.Send(handle, b"answer")).transferred)
        port.stop()

    port.start(echo())
    far.sendall(b"hello")
    port.run()
    assert seen == [b"hello", 6]
    assert far.recv(10) == b"answer"


def test_an_error_is_raised_where_the_operation_is_awaited(port: unio.Port, make_pair: Any) -> None:
    near, _far = make_pair()
    recv = unio.Recv(port.associate(near))
    seen: list[BaseException] = []

    async def wait() -> None:
        try:
            await recv.within(0.01)
        except TimeoutError as error:
            seen.append(error)
        port.stop()

    port.start(wait())
    port.run()
    assert [type(each) for each in seen] == [TimeoutError]
    assert isinstance(recv.error, TimeoutError)
    assert recv.error.__traceback__ is None


def test_a_coroutine_that_awaits_is_closed_with_its_port(port: unio.Port, make_pair: Any) -> None:
    near, _far = make_pair()
    handle = port.associate(near)
    seen: list[object] = []

    async def wait() -> None:
        try:
            port.post(lambda _: port.stop())
            await unio.Recv(handle)
        finally:
            with contextlib.suppress(unio.PortClosed):
                await unio.Timer(0)
                seen.append("an await of a closed port returned")
            seen.append("closed")

    task = port.start(wait())
    port.run()
    assert not task.done
    port.close()
    assert seen == ["closed"]
    assert task.done


def test_elsewhere_await_says_what_to_use(port: unio.Port) -> None:
    async def wait() -> None:
        await unio.Timer(0)

    with pytest.raises(RuntimeError, match=r"port\.start\(coroutine\)"):
        wait().send(None)
