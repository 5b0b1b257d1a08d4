"""Signals on Windows: what takes them from the program, for common/signals.py.

It knows the C runtime and wakers, and no ports.

Windows tells of Ctrl-C and Ctrl-Break in a thread that it makes for that, and the C runtime makes SIGINT and SIGBREAK
of them; the program itself may raise these and SIGTERM. Python's handlers are the runtime's as well, but run in the
main thread only, which Windows wakes for none of this while it waits for a completion port. So a handler of the
runtime's is set here, in any thread, which queues a packet at once.
"""

from __future__ import annotations

import atexit
import errno
import os
from typing import TYPE_CHECKING, Any

from unio.backends.kernel.win32 import ucrtbase
from unio.backends.kernel.win32_api import ffi

if TYPE_CHECKING:
    from unio.backends.common.signals import Waker

SIG_ERR: Any = ffi.cast("SIGNAL_HANDLER", -1)


class RuntimesCatcher:
    """What takes signals by handlers of the C runtime's."""

    def __init__(self) -> None:
        self._handler: Any = ffi.callback("SIGNAL_HANDLER", self._handle)
        self._before: dict[int, Any] = {}
        self._wakers: dict[int, Waker] = {}
        self._come: set[int] = set()

    def take(self, number: int, waker: Waker) -> None:
        self._wakers[number] = waker
        before = ucrtbase.signal(number, self._handler)
        if before == SIG_ERR:
            del self._wakers[number]
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if before != self._handler:
            self._before[number] = before

    def give_back(self, number: int) -> None:
        self._come.discard(number)
        if self._wakers.pop(number, None) is None:
            return
        before = self._before.pop(number)
        now = ucrtbase.signal(number, before)
        if now not in {self._handler, before}:  # the program has set another one meanwhile, which stays
            ucrtbase.signal(number, now)

    def came(self, number: int) -> bool:
        try:
            self._come.remove(number)
        except KeyError:
            return False
        return True

    def note(self, number: int) -> None:
        self._come.add(number)

    def _handle(self, number: int) -> None:
        waker = self._wakers.get(number)
        if waker is not None:
            ucrtbase.signal(number, self._handler)  # the runtime calls it once
            self._come.add(number)
            waker()

    def give_all_back(self) -> None:
        """At the end of the program, since the handler is Python."""
        for number in [*self._wakers]:
            self.give_back(number)


CATCHER = RuntimesCatcher()
atexit.register(CATCHER.give_all_back)
