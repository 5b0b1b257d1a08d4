"""The loop's port, what has joined it, and what its turns leave to Python.

It knows asyncio's base class, and of the port that a completion's operation has a state to be called with. It knows no
transports. What transports have gathered in a turn (:meth:`Turns.before_wait`) is handed to the port at its end, so
that what was written to one connection leaves as one send.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from asyncio import base_events, format_helpers
from typing import TYPE_CHECKING, Any

from unio.asyncio.forms import TurnsState
from unio.errors import AssociationError, InFlight, NotAssociated, PortClosed
from unio.port import Port

if TYPE_CHECKING:
    import asyncio
    from asyncio import Handle

    from unio.handle import Handle as JoinedHandle
    from unio.handle import HasFileno
    from unio.operations import Operation


class Turns(TurnsState):
    """A loop that runs callbacks and delivers completions; what it can do beside is its subclass's."""

    if TYPE_CHECKING:  # of the base class
        _current_handle: Handle | None
        _thread_id: int | None

        def _check_closed(self) -> None: ...
        def _check_thread(self) -> None: ...
        def _check_callback(self, callback: object, method: str) -> None: ...

    port: Port
    """The port that the loop waits on; any operation may be submitted to it, with a callable for its state."""

    def __init__(self) -> None:
        super().__init__()
        self.port = Port(concurrency=1)
        self._begin_turns(self.port)
        self._joined: dict[int, JoinedHandle] = {}  # by number; see join
        self.owners: weakref.WeakValueDictionary[int, asyncio.BaseTransport] = weakref.WeakValueDictionary()
        """The transports, by the numbers of their handles."""

    # Handles

    def join(self, given: HasFileno) -> JoinedHandle:
        """The handle of a socket or a pipe, which joins the loop's port where it has not done so yet."""
        number = given.fileno()
        handle = self._joined.get(number)
        if handle is None or handle.object is not given or handle.closed:
            handle = self._joined[number] = self.port.associate(given)
        return handle

    def part(self, handle: JoinedHandle) -> None:
        """Forget a handle that was closed or detached."""
        if self._joined.get(handle.number) is handle:
            del self._joined[handle.number]

    def take(self, timeout: float | None) -> None:
        """Take what completes within so many seconds, to be delivered in its turn: what was cancelled is idle then."""
        for completion in self.port.wait(timeout):
            operation = completion.operation
            self.call_soon(completion.key if operation is None else operation.state, completion)

    # What a turn leaves to Python

    def _mark(self, handle: Any, method: str) -> None:
        """In debug mode: check a call that schedules, and note where it was made."""
        if method != "call_soon_threadsafe":
            self._check_thread()
        self._check_callback(handle._callback, method)
        handle._source_traceback = format_helpers.extract_stack(sys._getframe(1))

    def _run_timed(self, handle: Handle) -> None:
        if handle.cancelled():
            return
        self._current_handle = handle if self._debug else None
        try:
            began = self.time()
            handle._run()
            took = self.time() - began
            if self._debug and took >= self.slow_callback_duration:
                shown = base_events._format_handle(handle)  # type: ignore[attr-defined]
                base_events.logger.warning("Executing %s took %.3f seconds", shown, took)  # type: ignore[attr-defined]
        finally:
            self._current_handle = None
            del handle  # the frame lives on in an exception's traceback, and would keep a task that nobody asks

    def _callback_failed(self, handle: Any, error: BaseException) -> None:
        shown = format_helpers._format_callback_source(handle._callback, handle._args)
        self.call_exception_handler({"message": f"Exception in callback {shown}", "exception": error, "handle": handle})

    def _handler_failed(self, operation: Operation | None, error: BaseException) -> None:
        self.call_exception_handler({"message": f"Exception in the handler of {operation!r}", "exception": error})

    def _write_to_self(self) -> None:
        with contextlib.suppress(PortClosed):
            super()._write_to_self()

    # The end

    def close(self) -> None:
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._let_all_go()
        super().close()
        self._end_turns()
        self.port.close()

    def _let_all_go(self) -> None:
        """Give the sockets and pipes that have joined back, as they were: another loop may take them."""
        for handle in self._joined.values():
            handle.cancel()
        for handle in self._joined.values():
            while not handle.closed:
                try:
                    handle.detach()
                except InFlight:  # until all that was cancelled has come
                    self.port.wait()
                except (AssociationError, NotAssociated, OSError):  # it was closed; or the system can't, and it stays
                    break
        self._joined.clear()
