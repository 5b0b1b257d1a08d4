"""What ``await operation`` does; :mod:`unio.tasks` has who answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from unio.backends.common.accelerator import in_task

if TYPE_CHECKING:
    from collections.abc import Generator

    from unio.operations import Operation
    from unio.tasks import Task

Awaited = TypeVar("Awaited", bound="Operation")


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
    if not in_task():
        refuse_await(operation)
    state = operation.state
    yield request
    operation.state = state
    if operation.error is not None:
        operation._raise_error()
    return operation


def refuse_await(awaited: Operation | Task[Any]) -> NoReturn:
    raise RuntimeError(
        f"{type(awaited).__name__} can be awaited in a coroutine that Port.start has begun, and nowhere else: use "
        "port.start(coroutine) and port.run(), which are no event loop of another library's"
    )
