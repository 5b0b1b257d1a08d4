"""What some tests need of the platform, each as a mark whose reason names what is missing."""

from __future__ import annotations

import os
import socket
import sys

import pytest

import unio

WINDOWS = sys.platform == "win32"
LINUX = sys.platform.startswith("linux")

needs_af_unix = pytest.mark.skipif(
    WINDOWS or not hasattr(socket, "AF_UNIX"), reason="needs AF_UNIX sockets, which Python does not have here"
)
needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs in the file system")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
_kqueue = next(each for each in unio.backends.candidates() if each.name == "kqueue")
needs_kqueue = pytest.mark.skipif(not _kqueue.available, reason=f"kqueue can't run here: {_kqueue.reason}")
needs_dup2 = pytest.mark.skipif(WINDOWS, reason="needs descriptors whose number can be chosen; Windows chooses handles")
needs_rlimit = pytest.mark.skipif(WINDOWS, reason="needs resource limits")
needs_signals = pytest.mark.skipif(WINDOWS, reason="needs signals that end another process")
needs_to_lose_rights = pytest.mark.skipif(
    WINDOWS or (not LINUX and os.geteuid() == 0), reason="needs a user to whom the mode of a file can forbid something"
)
needs_non_blocking_mode = pytest.mark.skipif(WINDOWS, reason="needs O_NONBLOCK; overlapped handles never block")
needs_crt_files = pytest.mark.skipif(WINDOWS, reason="needs files that join however they were opened; see unio.open")
needs_names_of_bytes = pytest.mark.skipif(WINDOWS, reason="needs names of files that are any bytes; Windows' are text")
needs_pollable_pipes = pytest.mark.skipif(WINDOWS, reason="needs pipes with readiness; Windows polls sockets only")
needs_counted_bytes = pytest.mark.skipif(WINDOWS, reason="needs a full socket whose peer gets all that it took")
needs_parentage = pytest.mark.skipif(WINDOWS, reason="needs parents that alone know the status of their children")
needs_plain_close = pytest.mark.skipif(
    WINDOWS, reason="needs a plain close that counts though a duplicate lives on; Windows then lets nobody cancel"
)
