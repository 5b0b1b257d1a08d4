"""Clause S11 of the contract, for tasks: none is forgotten where memory is lacking."""

from __future__ import annotations

from typing import Any

import pytest
from scarcity import ALLOCATIONS, WHY_NOT, lacking
from support import Hook, completion

import unio

pytestmark = [
    pytest.mark.clause("S11", "H5"),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it can"),
    pytest.mark.process_wide,
]


def dispatch(found: unio.Completion) -> Any:
    return found.key if found.operation is None else found.operation.state


@pytest.mark.parametrize("awaits", ["an operation", "with a time-out", "at once", "a task"])
def test_a_task_that_finds_no_memory_goes_on_or_is_told(
    port: unio.Port, make_pair: Any, hook: Hook, awaits: str
) -> None:
    near, far = make_pair()
    handle = port.associate(near, skip_on_success=awaits == "at once")
    steps: list[str] = []

    async def receive() -> None:
        await unio.Recv(handle)

    async def work() -> None:
        while True:
            try:
                if awaits == "with a time-out":
                    await unio.Recv(handle).within(3600)
                elif awaits == "a task":
                    await port.start(receive())
                else:
                    if awaits == "at once":
                        await unio.Send(handle, b"x")
                    await receive()
                steps.append("received")
            except MemoryError:
                steps.append("no memory")

    def step(number: int | None = None) -> None:
        found = completion(port)
        if number is None:
            dispatch(found)(found)
        else:
            lacking(number, dispatch(found), found)

    for number in range(2 * ALLOCATIONS):
        steps.clear()
        task = port.start(work())
        while not steps:  # it goes on
            if port.in_flight():
                far.sendall(b"a")
            step()
        far.sendall(b"b")
        step(number)
        steps.clear()
        while not steps and not task.done:  # and still does, unless it has ended with that
            if port.in_flight():
                far.sendall(b"c")
            step()
        for each in port.tasks():
            each.cancel()
        while port.tasks():
            step()
