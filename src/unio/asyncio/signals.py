"""Handlers of signals, which the loop calls as it does any callback.

Python runs its own handler of a signal in the main thread, which a signal wakes from the port's wait: that handler
schedules the loop's callback, and nothing else. So they are Python's for everybody to see (``signal.getsignal``), and
Ctrl-C is what :class:`asyncio.Runner` makes of it unless the program has a handler of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import inspect
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from unio.asyncio.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable


class Signals(Turns):
    """A loop with handlers of signals."""

    def __init__(self) -> None:
        super().__init__()
        self._signal_handlers: dict[int, Callable[[], object]] = {}  # each calls call_soon_threadsafe

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        if asyncio.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        _check(sig)
        self._check_closed()
        before = dict(self._signal_handlers)
        context = contextvars.copy_context()
        self._signal_handlers[sig] = partial(self.call_soon_threadsafe, callback, *args, context=context)
        try:
            _set(sig, self._on_signal)
        except ValueError as error:  # in another thread than the main one
            self._signal_handlers = before
            raise RuntimeError(str(error)) from None
        except BaseException:
            self._signal_handlers = before
            raise

    def _on_signal(self, sig: int, _: object) -> None:
        schedule = self._signal_handlers.get(sig)
        if schedule is not None and not self.is_closed():
            schedule()

    def remove_signal_handler(self, sig: int) -> bool:
        _check(sig)
        if sig not in self._signal_handlers:
            return False
        _set_default(sig)
        del self._signal_handlers[sig]
        return True

    def forget_signals(self) -> None:
        """Have signals that come from now on end this process, as they would end any other."""
        for sig in self._signal_handlers:
            if signal.getsignal(sig) == self._on_signal:
                _set_default(sig)
        self._signal_handlers.clear()

    def close(self) -> None:
        super().close()
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)


def _check(sig: int) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


def _set(sig: int, handler: Any) -> None:
    try:
        signal.signal(sig, handler)
        if hasattr(signal, "siginterrupt"):
            signal.siginterrupt(sig, False)  # calls of libraries go on by themselves
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise RuntimeError(f"sig {sig} cannot be caught") from None
        raise


def _set_default(sig: int) -> None:
    _set(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
