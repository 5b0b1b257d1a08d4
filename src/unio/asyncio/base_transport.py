"""What the transports of pipes and of datagrams have in common: a handle, a protocol, and one end.

It knows the loop and the handle, and neither what comes through that nor in which direction.
"""

from __future__ import annotations

import contextvars
import warnings
from abc import abstractmethod
from asyncio import transports
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from unio.asyncio.turns import Turns
    from unio.handle import HasFileno

UNHEARD_MAX = 5
"""How many writes to a transport that is closed go without a warning."""


class BaseTransport(transports._FlowControlMixin):
    """A transport of a handle that is closed with it."""

    _kind = "pipe"

    if TYPE_CHECKING:  # of the base class
        _loop: Turns
        _extra: dict[str, Any]

        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...

    def __init__(
        self,
        loop: Turns,
        given: HasFileno,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
    ) -> None:
        self._lost = True  # until there is something to lose
        super().__init__(extra, loop)
        self._context = contextvars.copy_context()
        self._protocol: Any = protocol
        self._given: Any = given
        self._handle = loop.join(given)
        loop.owners[self._handle.number] = self
        self._closing = False
        self._size = 0  # of what was written and has not left
        self._lost = False
        self._unheard = 0  # writes in vain
        loop.call_soon(self._begin, waiter, context=self._context)

    def _begin(self, waiter: asyncio.Future[None] | None) -> None:
        self._protocol.connection_made(self)
        if not self._closing:
            self._start()
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @abstractmethod
    def _start(self) -> None:
        """Submit what is in flight from now on."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return self._size

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._size:
                self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _write_in_vain(self) -> None:
        if self._unheard >= UNHEARD_MAX:
            logger.warning("a %s transport that is closed was written to", self._kind)
        self._unheard += 1

    def _fail(self, error: BaseException, message: str) -> None:
        if not isinstance(error, OSError):
            self._loop.call_exception_handler(
                {
                    "message": f"{message} on {self._kind} transport",
                    "exception": error,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
        elif self._loop.get_debug():
            logger.debug("%r: %s on %s transport", self, message, self._kind, exc_info=error)
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Let what was not sent go, and tell the protocol that the connection is lost; once."""
        if self._lost:
            return
        self._closing = True
        self._lost = True
        self._size = 0
        if self._loop.is_closed():  # which has given the object back, and nobody else closes it
            self._given.close()
        else:
            self._loop.call_soon(self._connection_lost, error, context=self._context)

    def _connection_lost(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._handle.close()
            self._loop.part(self._handle)

    def __repr__(self) -> str:
        state = "closed" if self._lost else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} fd={self._handle.fileno()} write_bufsize={self._size}>"

    def __del__(self, warn: Any = warnings.warn) -> None:
        if not self._lost and not self._handle.closed:
            warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._handle.close()
