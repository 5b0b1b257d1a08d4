"""Files and pipes opened so that they can join a port on every platform."""

from __future__ import annotations

import io
import os
import sys

MODES = ("rb", "wb", "xb", "ab")


def open(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], mode: str = "rb") -> io.FileIO:  # noqa: A001
    """Open a file for :class:`unio.Read`, :class:`unio.Write` and :class:`unio.SendFile`.

    *mode* is one of ``rb``, ``wb``, ``xb``, ``ab`` with or without ``+``, as for the built-in ``open``. The result is
    unbuffered and not inheritable. On POSIX any file will do; Windows decides when a file is opened whether it can do
    overlapped I/O (``FILE_FLAG_OVERLAPPED``), so portable programs open files here.

    Raises :class:`OSError` and, for another mode, :class:`ValueError`.
    """
    if mode.replace("+", "", 1) not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}, each with or without a '+'")
    if sys.platform == "win32":
        from unio.backends.kernel import win32  # noqa: PLC0415 - Windows only

        return win32.open_file(os.fsdecode(path), mode)
    return io.FileIO(path, mode.replace("b", ""))


def pipe() -> tuple[io.FileIO, io.FileIO]:
    """Make a pipe and return its two ends: one to receive from, one to send to.

    Both are unbuffered and not inheritable. Windows' own anonymous pipes can't join a port, so portable programs make
    them here.

    Raises :class:`OSError`.
    """
    if sys.platform == "win32":
        from unio.backends.kernel import win32  # noqa: PLC0415 - Windows only

        return win32.make_pipe()
    reader, writer = os.pipe()
    return io.FileIO(reader, "r"), io.FileIO(writer, "w")
