"""Any operation of the port, awaited."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from unio.asyncio.turns import Turns
from unio.errors import anew

if TYPE_CHECKING:
    from unio.completion import Completion
    from unio.operations import Operation

Op = TypeVar("Op", bound="Operation")


class Bridge(Turns):
    """A loop in which operations are awaited."""

    async def complete(self, operation: Op, timeout: float | None = None) -> Op:
        """Submit an operation, wait until it has completed, and give it back; its error is raised here.

        Its ``state`` is the loop's meanwhile. *timeout* is that of :meth:`unio.Port.submit`, whose errors are raised
        too. Where the task is cancelled, the operation is, and the task goes on when that has ended: the operation has
        its results then, as those may have won.
        """
        future = self.create_future()
        state, operation.state = operation.state, lambda _: None if future.done() else future.set_result(None)
        try:
            self.port.submit(operation, timeout)
            try:
                await future
            except asyncio.CancelledError:
                await self._end(operation)
                raise
        finally:
            operation.state = state
        if operation.error is not None:
            raise anew(operation.error)
        return operation

    async def _end(self, operation: Operation) -> None:
        ended = self.create_future()
        operation.state = lambda _: ended.set_result(None)
        self.port.cancel(operation)
        while not ended.done():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:  # again
                continue
