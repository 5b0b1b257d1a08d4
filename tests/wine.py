"""Where Wine differs from Windows: the one table of it, and the marks of the tests that meet such a difference.

The reference is Windows, as Microsoft documents it. Each row has the name that the tests' marks use, what differs,
and the major versions of Wine it was seen with. A marked test runs there and is expected to fail; that it does is
checked unless a race decides it. A row that no test names is one that the backend goes around, or that no test meets
yet.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import pytest

EVERY = (8, 10)

ERROR_ALERTED = 739
"""What Wine reports of an operation that it was trying again as a thread ended; Windows has no completion with it."""


def wine_version() -> int | None:
    """The major version of the Wine that this Python runs under, or None: it may well be real Windows."""
    if sys.platform != "win32":
        return None
    import ctypes  # noqa: PLC0415 - needed on Windows only

    try:
        tell = ctypes.WinDLL("ntdll").wine_get_version
    except AttributeError:
        return None
    tell.restype = ctypes.c_char_p
    return int(tell().split(b".")[0])


VERSION = wine_version()

ROWS: dict[str, tuple[str, tuple[int, ...]]] = {
    "accept-misuse": ("AcceptEx on a socket that does not listen is not refused: it pends for ever", EVERY),
    "accept-later": ("AcceptEx pends for a moment also where a client waits, so that a cancel may win", EVERY),
    "close-with-send-pending": (
        "closesocket with a send pending queues no packet until the peer reads: to wait for one may be to hang",
        EVERY,
    ),
    "waiter-of-a-closed-port": ("CloseHandle of a completion port does not wake the threads that wait on it", (8,)),
    "fifo-waiters": (
        "threads that wait on a completion port are released in the order they came, not the last first",
        (8,),
    ),
    "no-concurrency-limit": ("NumberOfConcurrentThreads is ignored", EVERY),
    "receive-after-reset": ("a receive started after a reset ends with 0 bytes instead of WSAECONNRESET", (8,)),
    "unreachable-unconnected": ("an unconnected datagram socket is never told that a datagram met nobody", EVERY),
    "unreachable-connected": ("a connected datagram socket is told 1225 and not 1234 when nobody is there", EVERY),
    "reset-before-accept": ("a peer that is gone before AcceptEx gives 59 or 10057, not 64", EVERY),
    "disconnect-reuse": ("ConnectEx on a socket that DisconnectEx was to make reusable fails with WSAEISCONN", EVERY),
    "disconnect-skips": (
        "DisconnectEx on a socket that skips its packets says that one will come, and none does",
        EVERY,
    ),
    "recvmsg-truncated": ("WSARecvMsg does not say MSG_TRUNC", EVERY),
    "waitall-short": ("MSG_WAITALL returns what is there", EVERY),
    "send-after-reset": ("TransmitFile on a connection that was reset says WSAENOTCONN, not WSAECONNRESET", EVERY),
    "send-in-background": (
        "a short send of a non-blocking socket says that it is whole, goes on by itself, and may stop before its end",
        (10,),
    ),
    "send-at-end": (
        "a send that pends as the peer ends or resets may end short, the rest coming behind the next, or never",
        EVERY,
    ),
    "poll-at-end": ("a poll that pends as both sides end the stream may not be told of it", EVERY),
    "transmit-file-leaks": ("each TransmitFile leaves its buffer, of 4 to 64 KiB, in the heap of the process", EVERY),
    "cancelled-send-file": ("a TransmitFile that was cancelled does not tell how much it had sent", EVERY),
    "send-unconnected": ("WSASend on a socket that never connected says WSAECONNRESET, not WSAENOTCONN", EVERY),
    "refused-once": ("a connected datagram socket is told once only that nobody is there", EVERY),
    "unreadable-file": ("TransmitFile sends a file that is not open for reading", EVERY),
    "end-before-data": ("of several receives that pend as the peer ends, one may see the end before the data", EVERY),
    "reset-before-data": ("a reset discards what had arrived before it and was not received yet", EVERY),
    "cancelled-pipe-write": ("a cancelled write to a pipe that was taken in part leaves nothing for the reader", EVERY),
    "cancel-amid-retry": ("CancelIoEx does not find a send that is just being tried again, which then goes on", EVERY),
    "close-amid-retry": (
        "what is tried again as its socket is closed may move data uncounted, or the next socket's, or never end",
        EVERY,
    ),
    "thread-ends-amid-retry": (
        "an operation that is just being tried again as the thread ends that has started it fails with ERROR_ALERTED",
        EVERY,
    ),
    "poll-of-itself": ("a poll of the very handle of the device that answers polls ends the wineserver", EVERY),
    "leave-port": ("NtSetInformationFile has no FileReplaceCompletionInformation: nothing leaves its port", EVERY),
    "no-symbolic-links": ("CreateSymbolicLink says that it has made a link, and has made nothing", EVERY),
    "console-events": ("GenerateConsoleCtrlEvent fails: a child can't be sent a signal", EVERY),
}


def has_row(name: str) -> bool:
    """Whether a row is about what this runs on: for a test that meets the difference only now and then."""
    return VERSION in ROWS[name][1]


def wine_row(name: str, *, always: bool = True) -> pytest.MarkDecorator:
    """Mark a test that meets a row of the table.

    With ``always=False`` it meets the difference only where one of two is faster: two threads, or a thread and the
    wineserver. A busy machine turns such a race round, so that it is not checked that it does.
    """
    return pytest.mark.xfail(has_row(name), reason=_reason(name), strict=always)


def met_row(name: str) -> NoReturn:
    """End a test that has just seen a difference of the table, of which a race decides whether it is seen."""
    assert has_row(name), f"Wine alone may do so: {_reason(name)}"
    pytest.xfail(_reason(name))


def _reason(name: str) -> str:
    return f"Wine {VERSION}, {name}: {ROWS[name][0]}"
