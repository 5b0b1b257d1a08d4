"""The graceful end of what a port does: :meth:`unio.Port.drain`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from unio.errors import PortClosed
from unio.operation_state import PENDING
from unio.operations import Accept, Operation, Route, Timer
from unio.reports import report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from unio.port import Port

LOOK_SECONDS = 0.02
"""How long a drain sleeps between two looks."""

LOOK_SHARE = 20
"""With many handles it sleeps longer: a look takes at most one part in this many of the time."""

CLOSE_SECONDS = 1.0
"""How long it waits for the end of what it has cut off; a file operation that a thread is doing may take longer."""

DOING = (Route.OUTGOING, Route.FILE, Route.NAME)
"""The routes of operations that do something. All others wait for others to do something, or for a time."""


async def drain(port: Port, grace: float, quiet: float) -> list[Operation]:
    """Do what :meth:`unio.Port.drain` says, in a task."""
    until = time.monotonic() + grace
    waiting = Waiting(port, min(quiet, grace))
    at_rest = 0
    while True:
        began = time.monotonic()
        operations = port._operations()
        idle = waiting.end_idle(operations)
        # Twice, with all that was in the queue meanwhile handled in between: what a thread has taken from there is
        # neither in flight, nor does the thread say at once that it is at work on it.
        at_rest = 0 if operations or is_at_work(port) else at_rest + 1
        now = time.monotonic()
        if at_rest > 1:
            return []
        if now >= until:
            return await cut_off(port, operations, idle)
        await Timer(min(max(LOOK_SECONDS, LOOK_SHARE * (now - began)), until - now))


class Waiting:
    """The operations that wait for others to do something, and since when."""

    def __init__(self, port: Port, quiet: float) -> None:
        self._port = port
        self._quiet = quiet
        self._since: dict[int, tuple[Operation, int, float]] = {}  # by identity: a class may compare as it likes

    def end_idle(self, operations: Iterable[Operation]) -> set[int]:
        """Cancel accepts, and what has been seen to wait for so long that it counts as idle; return which, by id."""
        before, self._since = self._since, {}
        idle: set[int] = set()
        now = time.monotonic()
        for operation in operations:
            if operation._status != PENDING or operation.route in DOING:
                continue
            seen = before.get(id(operation))
            flight = operation._sequence
            since = seen[2] if seen is not None and seen[1] == flight else now
            self._since[id(operation)] = operation, flight, since
            if isinstance(operation, Accept) or now - since >= self._quiet:
                self._port.cancel(operation)
                idle.add(id(operation))
        return idle


def is_at_work(port: Port) -> bool:
    """Whether a thread is handling something, or is about to."""
    me = threading.get_ident()
    return any(run.is_busy and run.thread != me for run in list(port._runs)) or any(
        task._has_turn() for task in port.tasks()
    )


async def cut_off(port: Port, operations: list[Operation], idle: set[int]) -> list[Operation]:
    """End what is still in flight, and wait until it has ended. Returns what that was, but for what was idle."""
    flights = [(each, each._sequence) for each in operations if each._status == PENDING]
    ended = [each for each, _ in flights if id(each) not in idle]
    for operation in ended:
        try:
            if operation.handle is None:
                port.cancel(operation)
            else:
                operation.handle.close()
        except PortClosed:
            raise
        except Exception as error:  # noqa: BLE001 - a library's close has raised it: the others are to be closed as well
            report(error, f"this came of closing {operation!r}")
    until = time.monotonic() + CLOSE_SECONDS
    while time.monotonic() < until and any(each.in_flight and each._sequence == flight for each, flight in flights):
        await Timer(LOOK_SECONDS)
    return ended
