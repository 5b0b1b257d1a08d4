"""What ``await operation`` does; :mod:`unio.tasks` has who answers it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from unio.errors import anew

if TYPE_CHECKING:
    from collections.abc import Generator

    from unio.operations import Operation
    from unio.tasks import Task

Awaited = TypeVar("Awaited", bound="Operation")

current_task: ContextVar[Task | None] = ContextVar("unio.task", default=None)
"""The task whose context this is. Each has one of its own, so that nothing has to be set whenever one goes on."""


class Within(Generic[Awaited]):
    """An operation to be awaited that has so many seconds to end; :meth:`unio.Operation.within` makes it."""

    __slots__ = ("operation", "timeout")

    def __init__(self, operation: Awaited, timeout: float | None) -> None:
        self.operation = operation
        self.timeout = timeout

    def __await__(self) -> Generator[Any, None, Awaited]:
        return completed(self.operation, self)


def completed(operation: Awaited, request: Awaited | Within[Awaited]) -> Generator[Any, None, Awaited]:
    """Ask the task that this runs in to submit an operation and to go on when it has completed."""
    if current_task.get() is None:
        raise RuntimeError(
            f"{type(operation).__name__} can be awaited in a coroutine that Port.start has begun, and nowhere else: a "
            "port is no event loop of another library's. Use port.start(coroutine) and port.run()"
        )
    state = operation.state
    yield request
    operation.state = state
    if operation.error is not None:
        raise anew(operation.error)
    return operation
