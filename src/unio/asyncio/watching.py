"""Watching descriptors whose bytes another library moves: ``add_reader`` and its like, on every system.

A watched direction has a poll in flight, which is submitted anew after each call of its callback: so that is called for
as long as there is something to read, or room to write. A descriptor that nobody watches any more leaves the port, so
that it is again as it was, and another loop may have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from unio.asyncio.turns import Turns
from unio.errors import Cancelled, InFlight, NotAssociated, anew
from unio.operations import Poll, Readiness

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.completion import Completion
    from unio.handle import Handle, HasFileno


class Watching(Turns):
    """A loop that calls back when a descriptor is ready."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: dict[int, Watch] = {}  # by number

    def add_reader(self, fd: HasFileno | int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        self._add_watch(fd, Readiness.READABLE, callback, args)

    def add_writer(self, fd: HasFileno | int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        self._add_watch(fd, Readiness.WRITABLE, callback, args)

    def remove_reader(self, fd: HasFileno | int) -> bool:
        return self._remove_watch(fd, Readiness.READABLE)

    def remove_writer(self, fd: HasFileno | int) -> bool:
        return self._remove_watch(fd, Readiness.WRITABLE)

    def _add_watch(
        self, fd: HasFileno | int, readiness: Readiness, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self._check_closed()
        number = self._free_number(fd)
        watch = self._watches.get(number)
        if watch is None or watch.handle.closed:
            watch = self._watches[number] = Watch(self, number)
        watch.sides[readiness is Readiness.WRITABLE].call(asyncio.Handle(callback, args, self, None))

    def join(self, given: HasFileno) -> Handle:
        if self._watches and (watch := self._watches.get(given.fileno())) is not None:
            watch.leave_to(given)
        return super().join(given)

    def _free_number(self, fd: HasFileno | int) -> int:
        number = _number(fd)
        owner = self.owners.get(number)
        if owner is not None and not owner.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {owner!r}")
        return number

    def _call(self, callback: asyncio.Handle) -> None:
        if self._debug:
            self._run_timed(callback)
        else:
            callback._run()

    def _remove_watch(self, fd: HasFileno | int, readiness: Readiness) -> bool:
        number = self._free_number(fd)
        if self.is_closed():
            return False
        watch = self._watches.get(number)
        return watch is not None and watch.sides[readiness is Readiness.WRITABLE].stop()


class Watch:
    """A descriptor that is watched.

    It joins the port by its number, unless its object has joined already.
    """

    def __init__(self, loop: Watching, number: int) -> None:
        self.loop = loop
        self.number = number
        self.handle = _joined(loop, number)
        self.sides = [Side(self, Readiness.READABLE), Side(self, Readiness.WRITABLE)]

    def give_up(self) -> None:
        """Have the descriptor leave the port, unless somebody watches it."""
        if any(side.callback is not None or side.waits for side in self.sides):
            return
        if self.loop._watches.get(self.number) is self:
            del self.loop._watches[self.number]
        if isinstance(self.handle.object, int):  # or else it has joined for other reasons
            self._detach()

    def leave_to(self, given: HasFileno) -> None:
        """Have an object join in the place of its number: who closes its handle has to close the object."""
        if not isinstance(self.handle.object, int) or self.handle.closed:
            return
        self.handle.cancel()
        while any(side.poll.in_flight for side in self.sides):
            self.loop.take(None)
        self._detach()
        if self.handle.closed:
            self.handle = self.loop.join(given)
            for side in self.sides:
                side.poll.handle = self.handle
                side.go_on()

    def _detach(self) -> None:
        with contextlib.suppress(InFlight, NotAssociated, OSError):  # what can't leave stays until the loop is closed
            self.handle.detach()
            self.loop.part(self.handle)


class Side:
    """A direction of a descriptor, and who is called when it is ready."""

    def __init__(self, watch: Watch, readiness: Readiness) -> None:
        self.watch = watch
        self.callback: asyncio.Handle | None = None
        self.poll = Poll(watch.handle, readiness, state=self._ended)
        self.waits = False  # until the poll's completion has been delivered, which is later than that it was taken
        self.stopped = False  # whether what it will have found is of no interest any more

    def call(self, callback: asyncio.Handle) -> None:
        """Have another callback called from now on."""
        if self.callback is not None:
            self.callback.cancel()
        self.callback = callback
        self.go_on()

    def stop(self) -> bool:
        """Call nobody any more. Returns whether somebody would have been called."""
        callback, self.callback = self.callback, None
        if callback is None:
            return False
        callback.cancel()
        self.stopped = self.waits
        self.watch.loop.port.cancel(self.poll)
        self.watch.give_up()
        return True

    def _ended(self, completion: Completion) -> None:
        stopped, self.stopped = self.stopped, False
        self.waits = False
        if self.callback is None:
            self.watch.give_up()
        elif self.watch.handle.closed:  # by the program, which has not said that it watches no more
            self.callback = None
            self.watch.give_up()
        elif stopped or isinstance(completion.error, Cancelled):  # and somebody watches again
            self.go_on()
        elif completion.error is None:
            try:
                self.watch.loop._call(self.callback)
            finally:
                self.go_on()
        else:
            self.callback = None
            self.watch.loop.call_exception_handler(
                {"message": f"Descriptor {self.watch.number} can't be watched", "exception": anew(completion.error)}
            )

    def go_on(self) -> None:
        """Wait once more, if there is somebody to call."""
        if self.callback is not None and not self.waits:
            self.watch.loop.port.submit(self.poll)
            self.waits = True


def _number(fd: HasFileno | int) -> int:
    try:
        number = fd if isinstance(fd, int) else int(fd.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {fd!r}") from None
    if number < 0:
        raise ValueError(f"Invalid file descriptor: {number}")
    return number


def _joined(loop: Watching, number: int) -> Handle:
    """The handle of a number, which may be a socket's that has joined by itself; it blocks as before."""
    known = loop._joined.get(number)
    if known is not None and not known.closed:
        return known
    blocks = False
    if sys.platform != "win32":
        blocks = os.get_blocking(number)
    handle = loop._joined[number] = loop.port.associate(number)
    if sys.platform != "win32" and blocks:
        os.set_blocking(number, True)
    return handle
