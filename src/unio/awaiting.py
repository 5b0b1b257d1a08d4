"""What ``await operation`` does; :mod:`unio.tasks` has who answers it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from unio.errors import Cancelled, anew, cancelled

if TYPE_CHECKING:
    from collections.abc import Generator

    from unio.operations import Operation
    from unio.tasks import Task

Awaited = TypeVar("Awaited", bound="Operation")

current_task: ContextVar[Task[Any] | None] = ContextVar("unio.task", default=None)
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
    """Ask the task that this runs in to submit an operation, and to go on when it has completed."""
    if current_task.get() is None:
        refuse_await(operation)
    state = operation.state
    yield request
    operation.state = state
    if operation.error is not None:
        raise anew(operation.error)
    return operation


def refuse_await(awaited: Operation | Task[Any]) -> NoReturn:
    raise RuntimeError(
        f"{type(awaited).__name__} can be awaited in a coroutine that Port.start has begun, and nowhere else: use "
        "port.start(coroutine) and port.run(), which are no event loop of another library's"
    )


def cancelled_await() -> Cancelled:
    """What is raised by the ``await`` of another task, in one that was cancelled."""
    task = current_task.get()
    assert task is not None
    task._cancelled = False
    return cancelled("cancelled by Task.cancel")
