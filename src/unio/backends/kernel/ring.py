"""How an io_uring is made, and what is told where that fails; the ring itself is C (core/ring_type.c)."""

from __future__ import annotations

import errno
import os
import resource
import time

import unio._core

ENTRIES = 1024
"""How many requests are gathered at most before the kernel is given them; there is no limit to those in flight."""

RING_KIB = 136
"""About how much memory a ring with so many takes, in KiB, as seen on Linux 6.18."""

GIVE_BACK_SECONDS = 0.5
"""How long the making of a ring waits for memory: the kernel has back that of a closed one later, by 60 ms at times."""

GIVE_BACK_STEP_SECONDS = 0.005
"""How soon it tries again."""


def open_ring() -> unio._core.Ring:
    """Make the ring of a port. The words of an OSError say what is in the way."""
    until = time.monotonic() + GIVE_BACK_SECONDS
    while True:
        try:
            return unio._core.Ring(ENTRIES)
        except OSError as error:
            if error.errno != errno.ENOMEM or time.monotonic() >= until:
                raise _explained(error) from None
        time.sleep(GIVE_BACK_STEP_SECONDS)


def _explained(error: OSError) -> OSError:
    """The error of making a ring, in words that say what to do about it."""
    number = error.errno or 0
    words = f"{error.strerror}: {os.strerror(number)}"
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if number == errno.ENOMEM and soft != resource.RLIM_INFINITY:
        words += (
            f"; the rings of a user count as locked memory, of which RLIMIT_MEMLOCK allows {soft // 1024} KiB here,"
            f" and one takes {RING_KIB} KiB: raise that limit (ulimit -l), or choose epoll"
        )
    return OSError(number, words)
