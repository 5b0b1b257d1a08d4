"""Who has the operations that name a handle, from their submit to the end of their flight.

It says what is in flight, what of that Windows has been given, and what may be given to it next. Of an operation it
changes how far it has come (the flags of its Overlapped), and neither its status nor its results. It calls nothing of
Windows'.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from unio.backends.windows.operations import goes_alone
from unio.backends.windows.overlapped import Overlapped, overlapped_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unio.backends.windows.handle import IocpHandle
    from unio.operations import Operation


class Direction:
    """The operations of one direction that Windows has not been given yet, oldest first."""

    __slots__ = ("busy", "exclusive", "starting", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Operation] = deque()
        self.starting = False  # a thread is giving them to Windows, so that their order is kept
        self.busy = 0  # how many Windows has
        self.exclusive = False  # whether the one it has is to be alone

    def remove(self, operation: Operation) -> None:
        """Take out one of those that wait. By identity: a subclass may compare as it likes."""
        self.waiting = deque([each for each in self.waiting if each is not operation])


class InFlight:
    """The operations in flight on the handles of a port. It keeps them alive, with their OVERLAPPED and their buffers.

    A packet leads to its operation by the address of the OVERLAPPED, and a handle to all of its own in the order of
    their submission (``handle.pending``, by the same address). Both are written here alone, with the handle's lock.
    """

    def __init__(self) -> None:
        self._at: dict[int, Operation] = {}

    def __len__(self) -> int:
        return len(self._at)

    def operations(self) -> list[Operation]:
        return list(self._at.values())

    def at(self, address: int) -> Operation | None:
        return self._at.get(address)

    def enter(self, handle: IocpHandle, operation: Operation) -> None:
        """Have an operation whose flight has begun, and let it wait to be given to Windows."""
        address = overlapped_of(operation).address
        handle.pending[address] = operation
        self._at[address] = operation
        handle.directions[operation.route].waiting.append(operation)  # last: now it can be started

    def next_to_start(self, handle: IocpHandle, direction: Direction) -> Operation | None:
        """Take the operation that this thread is to give to Windows now, if there is one."""
        if direction.starting or not direction.waiting or direction.exclusive:
            return None
        alone = goes_alone(handle, direction.waiting[0])
        if alone and direction.busy:
            return None
        operation = direction.waiting.popleft()
        handle.calling += 1
        direction.starting = True
        direction.busy += 1
        direction.exclusive = alone
        operation._native.given = True
        return operation

    def leave(self, handle: IocpHandle, operation: Operation) -> None:
        """Have an operation no more whose flight ends, or never began. It takes no memory, and can be done again."""
        overlapped: Overlapped | None = operation._native
        if overlapped is None:
            return
        handle.pending.pop(overlapped.address, None)
        self._at.pop(overlapped.address, None)
        if overlapped.given:
            overlapped.given = False
            direction = handle.directions[operation.route]
            direction.busy -= 1
            direction.exclusive = False

    def take_back(self, handle: IocpHandle) -> Iterator[Operation]:
        """Have those no more that Windows was never given, and give them one by one."""
        for direction in handle.directions.values():
            while direction.waiting:
                operation = direction.waiting[0]
                self.leave(handle, operation)
                yield operation
                direction.waiting.popleft()

    def give_up(self) -> Iterator[tuple[Operation, Overlapped]]:
        """Have nothing any more. Gives each operation, with the native side that Windows keeps."""
        while self._at:
            operation = self._at.popitem()[1]
            overlapped = overlapped_of(operation)
            operation._native = Overlapped()  # of the next submission, which a port that is open may get
            handle: Any = operation._handle
            with handle.lock:
                handle.pending.pop(overlapped.address, None)
            yield operation, overlapped
