"""What all operations have in common: the handle, the key and the state, and that one in flight is not to be changed.

It knows no kind of operation. What is kept, and how it is changed, is in OperationState (operation_state.py, or C).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from unio.arguments import require, whole_number
from unio.awaiting import Within, completed
from unio.backends.common.accelerator import OperationState
from unio.errors import InFlight, anew, shown
from unio.handle import Handle, Kind  # noqa: TC001 - typing.get_type_hints looks for them here
from unio.operation_state import IDLE

if TYPE_CHECKING:
    from collections.abc import Generator

STATUS_NAMES = ("idle", "pending", "queued")


class Route(enum.Enum):
    """Where a backend queues an operation; operations of one route and one handle are started in order."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"
    READINESS = "readiness"
    FILE = "file"
    TIMER = "timer"
    PROCESS = "process"
    NAME = "name"
    SIGNAL = "signal"


class Operation(OperationState):
    """What all operations have in common; make one of its subclasses.

    In a coroutine that :meth:`unio.Port.start` has begun, ``await operation`` submits it, waits until it has completed,
    and gives it back: ``recv = await unio.Recv(handle)``. The error of its completion is raised there, and so is what
    :meth:`unio.Port.submit` raises. Its :attr:`state` is the task meanwhile, and then what it was before.
    """

    __slots__ = ()

    name: ClassVar[str] = ""
    route: ClassVar[Route]

    _kinds: ClassVar[tuple[Kind, ...]] = ()
    """The kinds of handles that it works on; none for a timer, a process exit and a signal."""

    _hint: ClassVar[str] = ""
    """What to use for other kinds."""

    _is_part: ClassVar[bool] = False
    """Whether it is a part of what the port does for another operation: its end is told to its state, and no wait
    returns it."""

    state: Any
    """Whatever the caller wants to have back with the completion. :meth:`unio.Port.run` calls it with that; otherwise
    unio never looks at it."""

    def __init__(self, handle: Handle | None, key: Any, state: Any) -> None:
        if not self.name:
            raise TypeError(
                "Operation is what all operations have in common: make one of unio's, or of a subclass of it"
            )
        self._prepare(handle, key, state)

    def _await(self) -> Generator[Any, None, Self]:
        return completed(self, self)

    def _raise_error(self) -> NoReturn:
        assert self.error is not None
        raise anew(self.error)

    def within(self, timeout: float | None) -> Within[Self]:
        """Awaits it with a time-out, a number of seconds: ``await unio.Recv(handle).within(30)``.

        When it passes first, :class:`TimeoutError` is raised, as :meth:`unio.Port.submit` says.
        """
        return Within(self, timeout)

    def _set_handle(self, handle: Handle) -> None:
        self._must_be_idle()
        self._check_handle(handle)
        self._handle, self._key = handle, handle.key

    def _check_handle(self, handle: Handle) -> None:
        """Raise TypeError for a handle that the operation can't work on, as it is now."""
        if not self._kinds:
            raise TypeError(f"{type(self).__name__} works on no handle")
        require(handle, self._kinds, type(self).__name__, self._hint)

    def _set_transferred(self, transferred: int) -> None:
        self._must_be_idle()
        self._transferred = whole_number(transferred, "the number of bytes")

    def _must_be_idle(self) -> None:
        if self._status != IDLE:
            raise _in_flight(self, "it can't be changed before its completion")

    def _refuse_submission(self) -> NoReturn:
        raise _in_flight(self, "wait for its completion, or make another operation")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        # A copy would have this one's place in the port's rows, and its buffers.
        raise TypeError(f"{type(self).__name__} can't be copied or pickled: make another one")

    def __repr__(self) -> str:
        # No code of the program's runs here, such as the key's own repr: see shown.
        return f"<unio.{type(self).__name__} {STATUS_NAMES[self._status]} key={shown(self._key)}>"


def _in_flight(operation: Operation, hint: str) -> InFlight:
    return InFlight(f"{Operation.__repr__(operation)} is in flight: {hint}")  # not the repr of a program's subclass
