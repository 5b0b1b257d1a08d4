"""The errors of unio, all in one place.

There are two paths and no third. *Misuse* (a closed port, a handle that never joined, an operation that is still in
flight) raises from the call that was wrong. Whatever the operating system says of the input or output itself travels
as the error of a completion, always an :class:`OSError`, with the same ``errno`` on every backend.

A :class:`unio.Stream` raises both kinds from its awaits, and says of bytes that came, but not as they should have, that
the stream ended too soon or that a limit was exceeded.
"""

import errno
import os
import sys


class PortClosed(RuntimeError):
    """The port was closed: by this thread or, for a thread that waits, by another one.

    Every waiting thread is woken with it and every later call on the port raises it. It has the meaning of Windows'
    ``ERROR_ABANDONED_WAIT_0``.
    """


class AssociationError(ValueError):
    """The handle can't join the port: it has joined one already, is closed, or can't do overlapped I/O."""


class NotAssociated(ValueError):
    """The operation's handle belongs to another port than the one it was submitted to; or to none, for a detach."""


class InFlight(RuntimeError):
    """The operation was submitted and no wait has returned its completion yet, so it can't be used again."""


class BackendUnavailable(RuntimeError):
    """The backend asked for is unknown or can't run here; the message lists the candidates, each with its reason."""


class Cancelled(OSError):
    """The error of a completion whose operation was cancelled here, by a cancel or by closing the handle.

    Its ``errno`` is ``ECANCELED``. It is never the peer's doing: when the peer resets the connection, the error is a
    :class:`ConnectionResetError`.
    """


class StreamEnded(EOFError):
    """A stream ended before what was to be read from it had come. What did come can still be read."""


class LimitExceeded(ValueError):
    """What was to be read from a stream, such as a line, is longer than the reader allows. It can still be read."""


def cancelled(reason: str) -> Cancelled:
    return Cancelled(errno.ECANCELED, reason)


def has_left() -> Cancelled:
    return cancelled("the handle or its port was closed, or the handle was detached")


def cant_detach(handle: object) -> InFlight:
    return InFlight(
        f"{handle!r} can't be detached with operations in flight: cancel them, and take their completions first"
    )


def is_closed(handle: object) -> NotAssociated:
    return NotAssociated(f"{handle!r} was closed or detached before")


def no_memory() -> OSError:
    """The error of a completion where Python has found no memory; in the middle of anything."""
    return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def as_oserror(raised: Exception) -> OSError:
    """The error of a completion, for whatever was raised on the way; the caller holds no lock.

    It stays on the operation. So it loses what would keep all that was at hand when it was raised alive, and the
    operation too, in a cycle: the tracebacks, whose frames have that in their variables, and the error that the program
    was just dealing with, if any, which is another matter.
    """
    if isinstance(raised, OSError) and raised.errno is not None:
        error = raised
    elif isinstance(raised, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    else:  # an argument that only the call itself could find wrong: an address, an offset beyond what off_t holds
        error = OSError(errno.EINVAL, f"{type(raised).__name__}: {raised}")
        error.__cause__ = raised
    known: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in known:
        known.add(id(each))
        each.__traceback__ = each.__context__ = None
        each = each.__cause__
    return error


def anew(error: OSError) -> OSError:
    """A copy of a completion's error, to be raised: what is raised gets a traceback, and so keeps the frames alive."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    if sys.platform == "win32":
        copy.winerror = error.winerror
    return copy


TIMED_OUT = "the time-out of the submission passed"


def timed_out() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, TIMED_OUT)


def is_timed_out(error: OSError) -> bool:
    """Whether the time-out of a submission has passed; the system has time-outs of its own, which end a connection."""
    return isinstance(error, TimeoutError) and error.strerror == TIMED_OUT


def not_listening() -> OSError:
    return OSError(errno.EINVAL, "the socket does not listen: call its listen() before an accept is submitted")


SHOWN_MAX = 60
"""The longest text that a message shows whole, in characters, and the largest number, in bits."""


def shown(value: object) -> str:
    """What a message says of something that a program has given: itself, if it is plain and short, else its type.

    No code of the program's runs for that: its own repr may raise, may never end, and may need a lock that is held.
    """
    if type(value) is not tuple:
        return _shown_alone(value)
    parts = [_shown_alone(part) for part in value[:SHOWN_MAX]]
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def _shown_alone(value: object) -> str:
    if type(value) is str or type(value) is bytes:
        return repr(value) if len(value) <= SHOWN_MAX else f"{value[:SHOWN_MAX]!r}..."
    if type(value) is int:  # Python refuses to write down one that is very large
        return repr(value) if value.bit_length() <= SHOWN_MAX else f"an int of {value.bit_length()} bits"
    if value is None or type(value) is bool or type(value) is float:
        return repr(value)
    return f"<{type(value).__name__}>"
