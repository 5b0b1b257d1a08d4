"""Operations without a handle: timers, exits of processes, signals. Those that begin with a name are in names.py."""

from __future__ import annotations

from typing import Any, Protocol

from unio.arguments import checked_signal, seconds, whole_number
from unio.errors import shown
from unio.operations.operation import Operation, Route


class HasPid(Protocol):
    """A process as :class:`subprocess.Popen` or :class:`multiprocessing.Process` represent it."""

    @property
    def pid(self) -> int | None: ...


class Timer(Operation):
    """Complete once *delay* seconds have passed since its submission, never before."""

    __slots__ = ("_delay",)
    name = "timer"
    route = Route.TIMER

    def __init__(self, delay: float, key: Any = None, *, state: Any = None) -> None:
        super().__init__(None, key, state)
        self.delay = delay

    @property
    def delay(self) -> float:
        """How long it takes, in seconds."""
        return self._delay

    @delay.setter
    def delay(self, delay: float) -> None:
        self._must_be_idle()
        self._delay = seconds(delay, "the delay")


class ProcessExit(Operation):
    """Complete when a child process has ended, with its exit status in :attr:`status`.

    *process* is a :class:`subprocess.Popen`, another object with a ``pid``, or the number itself. The process is
    only observed: it stays for its owner to wait for, who gets the same status at once.

    Errors: ``ProcessLookupError`` when there is no such process; once it has ended, ``ChildProcessError`` when it was
    not a child of this one, or was waited for by someone else before its status could be read (an object that knows
    its ``returncode`` answers then); ``ENOSYS`` on Linux before 5.3.
    """

    __slots__ = ("_pid", "_process", "status")
    name = "process_exit"
    route = Route.PROCESS

    status: int | None
    """The exit status at the last completion: as :attr:`subprocess.Popen.returncode` has it, -N for signal N."""

    def __init__(self, process: HasPid | int, key: Any = None, *, state: Any = None) -> None:
        super().__init__(None, key, state)
        self.process = process
        self.status = None

    @property
    def process(self) -> HasPid | int:
        """The process that is observed."""
        return self._process

    @process.setter
    def process(self, process: HasPid | int) -> None:
        self._must_be_idle()
        number: Any = process if isinstance(process, int) else getattr(process, "pid", None)
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"ProcessExit needs a process or its number, not {shown(process)}")
        self._pid = whole_number(number, "a process number", None, least=1)
        self._process = process

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._pid


class Signal(Operation):
    """Complete when this process is sent a signal: at once, in whichever thread waits, however long it waits.

    *number* is a :class:`signal.Signals` or another number that ``signal.valid_signals()`` has, such as SIGTERM, SIGHUP
    or SIGINT; on Windows SIGINT (Ctrl-C), SIGBREAK (Ctrl-Break) or SIGTERM. Raises :class:`ValueError` for the others,
    for those that can't be caught, and for those that say that the program itself is at fault, such as SIGSEGV.

    From the first submission on, the signal is the port's: the handler that the program had, or Python's, is not
    called, so that Ctrl-C raises no ``KeyboardInterrupt``. What comes between a completion and the next submission, of
    this Signal or of another one of the same number, completes that one at once: none is lost, and several that come
    while nobody has heard of the first are one, as the system itself has it. The program has its own handling of the
    signal back when a Signal of that number was cancelled (by :meth:`Port.cancel`, which may also come between a
    completion and the next submission), or the port is closed. A time-out gives nothing back.

    If the program sets another handler meanwhile, as by :func:`signal.signal`, that one is called, and the next
    submission takes the signal again.

    Errors: ``EBUSY`` while another Signal of the same number is in flight, or another port has it; ``ENOTSUP`` where
    signals can't be had: in a subinterpreter, and, without the part of unio that is C, in a thread other than the main
    one unless the port has the signal already.
    """

    __slots__ = ("_number",)
    name = "signal"
    route = Route.SIGNAL

    def __init__(self, number: int, key: Any = None, *, state: Any = None) -> None:
        super().__init__(None, key, state)
        self.number = number

    @property
    def number(self) -> int:
        """The number of the signal."""
        return self._number

    @number.setter
    def number(self, number: int) -> None:
        self._must_be_idle()
        self._number = checked_signal(number)
