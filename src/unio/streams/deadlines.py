"""When a call on a stream has to be over, and what is raised where it isn't."""

from __future__ import annotations

import errno
import time

from unio.arguments import seconds
from unio.errors import anew


def deadline_of(timeout: float | None) -> float | None:
    """When a call that begins now has to be over."""
    return None if timeout is None else time.monotonic() + seconds(timeout, "the time-out")


def time_left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def time_for(deadline: float | None, idle: float | None) -> tuple[float, bool] | None:
    """How long the next operation of a call may take, and whether that is how long the peer may idle; None for ever."""
    if deadline is None:
        return None if idle is None else (idle, True)
    left = time_left(deadline)
    return (left, False) if idle is None or left <= idle else (idle, True)


def call_timed_out() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, "the time-out of the call has passed")


def idled(what: str, timeout: float | None) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"the peer has {what} nothing for {timeout} seconds")


def again(error: Exception) -> Exception:
    """The same to be kept, or to be raised once more: without the traceback, which would keep frames alive."""
    return anew(error) if isinstance(error, OSError) else type(error)(*error.args)
