"""Connecting to a name: one flight of a :class:`unio.ConnectTo`, which is made of other operations of the same port.

Which address is tried when is decided elsewhere (race). Here is what that comes to: a socket for each attempt, joining
the port, connecting, a timer, and closing what has lost.

The port tells the end of each part to its state, which is this object, in a thread that waits; on some backends in two
threads at once. So the port's lock is held to look and to note, and for nothing else. A step may be taken twice, where
there was no memory the first time: a part is acted upon by whoever takes it out of those that are under way.
"""

from __future__ import annotations

import socket
import weakref
from typing import TYPE_CHECKING, Any

from unio.backends.common.lookups import Lookup
from unio.backends.common.race import DELAY_SECONDS, Race
from unio.errors import as_oserror, shown
from unio.names import ConnectTo, Resolve
from unio.operations import Connect, Operation, Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.common.lookups import Undertaking
    from unio.backends.common.race import Found
    from unio.handle import Handle


class _Lookup(Resolve):
    __slots__ = ()
    _is_part = True


class _Delay(Timer):
    __slots__ = ()
    _is_part = True


class _Attempt(Connect):
    __slots__ = ("found",)
    _is_part = True

    found: Found


class Connecting:
    """The parts of one flight."""

    def __init__(self, port: Any, operation: ConnectTo) -> None:
        self._port = weakref.ref(port)
        self._operation = weakref.ref(operation)
        self._asked = operation._host, operation._port, operation._family
        self._key = operation.key
        self._lock = port._lock
        self._race: Race | None = None
        self._parts: dict[int, Operation] = {}  # under way, by identity; the lock guards this and the rest
        self._delay: _Delay | None = None  # the one that counts
        self._begun = False
        self._over = False
        self._outcome: tuple[OSError | None, Handle | None, Any] | None = None

    def start(self) -> None:
        with self._lock:
            begins, self._begun = not self._begun, True
        if begins:
            try:
                self._take(self._begin, None)
            except BaseException:
                self._begun = False
                raise

    def abandon(self) -> None:
        """Give up what is under way: cancel the timer and the lookup, close the sockets of the attempts."""
        with self._lock:
            self._over = True
            parts = list(self._parts.values())
            self._parts.clear()
        for part in parts:
            self._drop(part)

    def __call__(self, part: Operation) -> None:
        """A part has ended: its port calls this in the place of returning it from a wait."""
        self._take(self._act_on, part)

    def _take(self, step: Callable[[Any], None], part: Operation | None) -> None:
        """Take a step; whatever goes wrong, the operation ends once."""
        try:
            if not self._over:
                step(part)
        except Exception as error:  # noqa: BLE001 - see above
            self._finish(as_oserror(error))
        with self._lock:
            outcome, self._outcome = self._outcome, None
        if outcome is not None:
            self._tell(outcome)

    def _begin(self, _: None) -> None:
        host, port, family = self._asked
        self._submit(_Lookup(host, port, family=family, type=socket.SOCK_STREAM, state=self))

    def _submit(self, part: Operation) -> None:
        port = self._port()
        with self._lock:
            if not self._over:
                self._parts[id(part)] = part
        if port is not None and not self._over:
            port.submit(part)
        if self._over:  # meanwhile, perhaps before it was submitted
            self._drop(part)

    def _drop(self, part: Operation) -> None:
        """End a part that is of no use any more."""
        port = self._port()
        if isinstance(part, _Attempt):
            part.handle.close()
        elif port is not None and not port.closed:
            port.cancel(part)

    def _act_on(self, part: Operation) -> None:
        with self._lock:
            if self._parts.pop(id(part), None) is None:  # it was given up
                return
        if isinstance(part, _Lookup):
            self._looked_up(part)
        elif isinstance(part, _Attempt):
            self._attempted(part)
        elif part is self._delay:
            self._begin_next()

    def _looked_up(self, lookup: _Lookup) -> None:
        if lookup.error is not None:
            self._finish(lookup.error)
            return
        self._race = Race(shown(self._asked[:2]), lookup.addresses)
        self._begin_next()

    def _attempted(self, attempt: _Attempt) -> None:
        if attempt.error is None:
            try:
                self._finish(None, attempt.handle, attempt.address)
            except MemoryError:
                attempt.handle.close()
                raise
            return
        attempt.handle.close()
        self._failed(attempt.found, attempt.error)
        self._begin_next()

    def _failed(self, found: Found, error: OSError) -> None:
        assert self._race is not None
        with self._lock:
            self._race.failed(found, error)

    def _begin_next(self) -> None:
        """Begin the next attempt that can be begun; or end with an error, if there is none to wait for."""
        assert self._race is not None
        while True:
            with self._lock:
                found = self._race.begin()
                former, self._delay = self._delay, None
            if former is not None:
                self._give_up(former)
            if found is None:
                break
            try:
                attempt = self._attempt(found)
            except OSError as error:  # no descriptor is free, or the system has no such family
                self._failed(found, as_oserror(error))
                continue
            if self._race.has_more:
                self._delay = _Delay(DELAY_SECONDS, state=self)
                self._submit(self._delay)
            self._submit(attempt)
            return
        with self._lock:
            is_lost = self._race.is_lost
        if is_lost:
            self._finish(self._race.error())

    def _give_up(self, delay: _Delay) -> None:
        with self._lock:
            known = self._parts.pop(id(delay), None)
        if known is not None:
            self._drop(delay)

    def _attempt(self, found: Found) -> _Attempt:
        """Make a socket that connects to an address."""
        port = self._port()
        sock = socket.socket(*found[:3])
        try:
            attempt = _Attempt(port.associate(sock, self._key), found[4], state=self)  # type: ignore[union-attr]
        except BaseException:
            sock.close()
            raise
        attempt.found = found
        return attempt

    def _finish(self, error: OSError | None, handle: Handle | None = None, address: Any = None) -> None:
        """Note what it has come to, if that is the first; then the others are given up."""
        with self._lock:
            first = not self._over
            if first:
                self._outcome = error, handle, address
        if first:
            self.abandon()
        elif handle is not None:
            handle.close()

    def _tell(self, outcome: tuple[OSError | None, Handle | None, Any]) -> None:
        """End the operation, unless it has ended otherwise meanwhile: then nobody takes the connection."""
        error, handle, address = outcome
        port, operation = self._port(), self._operation()
        taken = False
        try:
            if port is not None and operation is not None:
                taken = port._undertaken(operation, self, error, connection=handle, address=address)
        except MemoryError:  # the next step of any part does it again
            self._outcome = outcome
            raise
        if not taken and handle is not None:
            handle.close()


UNDERTAKINGS: dict[str, Callable[[Any, Any], Undertaking]] = {"connect_to": Connecting, "resolve": Lookup}
"""What is done for the operations that are more than a deadline, by their names."""
