"""What the command says, and to streams that may be closed, broken or full."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

STANDARD = (0, 1, 2)
"""The descriptors of the standard streams."""


class Problem(Exception):
    """Why the command can't do what it is for, in words for whoever called it."""


def occupy_closed() -> None:
    """Put something in the place of standard streams that are closed.

    Else the next socket would have the number of one, and a client would get what is meant for standard error.
    """
    with contextlib.suppress(OSError):  # without descriptors to spare the command will not come far anyway
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) in STANDARD:
            pass
        os.close(descriptor)


def write(text: str) -> None:
    """Write to standard output, at once. Raises Problem."""
    stream = sys.stdout
    if stream is None:
        raise Problem("can't write to standard output: it is closed")
    try:
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
        stream.flush()
    except OSError as error:
        raise Problem(f"can't write to standard output: {error.strerror}") from error


def complain(text: str) -> None:
    """Write to standard error, if that takes it; there is nowhere left to say that it doesn't."""
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


def drop_unwritten() -> None:
    """Drop what the streams could not take.

    Python would try it once more at its end, print a traceback, and exit with another status.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
