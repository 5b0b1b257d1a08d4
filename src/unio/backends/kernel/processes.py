"""What became of a child process.

It knows numbers, and nothing of unio.
"""

from __future__ import annotations

import errno
import os


def open_pidfd(pid: int) -> int:
    """A descriptor for a process: of Linux since 5.3, if Python was made for that too."""
    if not hasattr(os, "pidfd_open"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    number: int = os.pidfd_open(pid)
    return number


def exit_status(kind: int, number: int, options: int = 0) -> int | None:
    """The exit status of a child, as subprocess has it; the child stays for its owner to wait for.

    Returns None while the child runs, if *options* has ``WNOHANG``, and waits for its end otherwise.
    """
    # On macOS, Python has it since 3.13.
    result = os.waitid(kind, number, os.WEXITED | os.WNOWAIT | options)  # type: ignore[attr-defined, unused-ignore]
    if result is None:
        return None
    return int(result.si_status if result.si_code == os.CLD_EXITED else -result.si_status)
