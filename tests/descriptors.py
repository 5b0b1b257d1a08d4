"""What this process holds of the system: its descriptors, or on Windows its handles."""

from __future__ import annotations

import contextlib
import gc
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from patience import PATIENCE

LISTED = Path("/proc/self/fd")
"""Where the system lists the descriptors of this process, if it is Linux."""


def open_descriptors() -> dict[int, str]:
    """The descriptors that are open in this process and what they stand for; none where the system does not say."""
    found = {}
    if LISTED.is_dir():
        for path in list(LISTED.iterdir()):
            with contextlib.suppress(OSError):  # the one that listed them is closed by now
                found[int(path.name)] = str(path.readlink())
    return found


def open_handles() -> int:
    """How many descriptors, or on Windows handles, this process has."""
    if sys.platform != "win32":
        return len(os.listdir(LISTED if LISTED.is_dir() else "/dev/fd"))
    import ctypes  # noqa: PLC0415 - needed on Windows only

    count = ctypes.c_ulong()
    ctypes.windll.kernel32.GetProcessHandleCount(ctypes.c_void_p(-1), ctypes.byref(count))
    return count.value or _handles_listed(ctypes.windll.ntdll.NtQuerySystemInformation)  # Wine leaves the count at 0


def _handles_listed(query: Callable[..., int]) -> int:
    """How many handles of this process are among all that the system has."""
    import ctypes  # noqa: PLC0415 - needed on Windows only

    size = 1 << 16
    while (status := query(64, room := ctypes.create_string_buffer(size), size, None)) & 0xFFFFFFFF == 0xC0000004:
        size *= 2  # STATUS_INFO_LENGTH_MISMATCH; 64 is SystemExtendedHandleInformation
    assert status == 0, hex(status & 0xFFFFFFFF)
    # SYSTEM_HANDLE_INFORMATION_EX: the number of entries, 8 bytes that are reserved, and 40 for each entry, whose
    # UniqueProcessId comes second.
    (entries,) = struct.unpack_from("<Q", room)
    own = os.getpid()
    return sum(struct.unpack_from("<Q", room, 16 + 40 * index + 8)[0] == own for index in range(entries))


def no_more_descriptors_than(before: dict[int, str]) -> None:
    """Fail if there are descriptors that were not there before.

    Those of garbage don't count, nor what another thread is about to close: the last one that uses a port's own.
    """

    def left() -> set[tuple[int, str]]:
        return open_descriptors().items() - before.items()

    if left():
        gc.collect()
    deadline = time.monotonic() + PATIENCE
    while found := left():
        assert time.monotonic() < deadline, f"descriptors left open: {found}"
        time.sleep(0.001)
