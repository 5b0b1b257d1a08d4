"""What has ended and no wait has returned yet, and what was begun and is still to be done.

All of it goes through the kernel's queue, and what finds no memory for that is kept here for the next wait. It gives an
operation its error and its status at the end of a flight, and changes nothing else of it; it may be told things in any
thread, with or without a lock.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from unio.backends.common.timers import Timers
from unio.backends.windows.kernel_queue import PacketKey
from unio.operation_state import IDLE, QUEUED
from unio.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unio.backends.windows.kernel_queue import KernelQueue, Packet
    from unio.port import Completion


class Delivery:
    """What a port owes its waits."""

    def __init__(self, queue: KernelQueue) -> None:
        self.queue = queue
        self.timers = Timers()
        self.closed = False
        self._left: deque[Packet | Completion | Operation] = deque()  # what a wait has fetched and not returned
        self._steps: deque[Callable[[], object]] = deque()

    def wake(self) -> None:
        """Have a thread that waits look again: at the deadlines, at what is kept here."""
        if not self.closed:
            self.queue.post(0, PacketKey.WAKE)

    # Steps that are not to be left out, however little memory there is

    def later(self, step: Callable[..., object], *arguments: object) -> None:
        """Have the next wait take a step."""
        self._steps.append(partial(step, *arguments))
        self.wake()

    def insist(self, step: Callable[..., object], *arguments: object) -> None:
        """Take a step; if there is no memory for it, the next wait takes it from its beginning.

        That raises nothing here: what the caller has done before is done, and is not to be done again.
        """
        try:
            step(*arguments)
        except MemoryError:
            self.later(step, *arguments)

    def take_steps(self) -> None:
        while self._steps:
            try:
                step = self._steps.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                step()
            except MemoryError:
                self._steps.append(step)
                self.wake()
                raise

    # What has ended

    def complete(self, operation: Operation, error: OSError | None) -> bool:
        """Give an operation its error. Returns whether its completion is to be delivered: not by a closed port."""
        operation._error = error
        self.timers.discard(operation)
        open_still = not self.closed
        operation._status = QUEUED if open_still else IDLE
        return open_still

    def put(self, packet: Operation | Completion) -> None:
        """Queue what has ended without a packet of Windows', or what was posted."""
        try:
            self.queue.put(packet)
        except MemoryError:
            if not isinstance(packet, Operation):
                raise
            self._left.append(packet)  # there the next wait finds it
            self.wake()
        if self.closed:  # whoever comes last, this thread or the one that closes the port, drops it
            self.drop()

    def drop(self) -> None:
        """Drop what no wait returns any more."""
        for operation in self.queue.drop():
            operation._status = IDLE
        for each in tuple(self._left):
            if isinstance(each, Operation):
                each._status = IDLE

    def operations(self) -> list[Operation]:
        """The operations that have ended and were not returned."""
        # From here they go to what is put, so that none is missed in this order.
        return [each for each in (*tuple(self._left), *self.queue.operations()) if isinstance(each, Operation)]

    # What a wait has fetched, and found no memory to return

    @property
    def has_left(self) -> bool:
        return bool(self._left)

    def fetch_left(self, limit: int) -> list[Packet | Completion | Operation]:
        found: list[Packet | Completion | Operation] = []
        while self._left and len(found) < limit:
            try:
                each = self._left.popleft()
            except IndexError:  # another thread was quicker
                break
            try:
                found.append(each)
            except MemoryError:
                self._left.appendleft(each)
                self.keep(found)
                raise
        return found

    def keep(self, found: Sequence[Packet | Completion | Operation]) -> None:
        """Keep what a wait can't return after all, for the next one."""
        if found:
            self._left.extendleft(reversed(found))
            self.wake()
            if self.closed:
                self.drop()
