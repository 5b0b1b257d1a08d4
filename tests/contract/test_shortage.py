"""Clause L4 where the kernel lacks memory or room: what reaches the caller, and what is tried again."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import channels
import pytest
import support

import unio

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a filter of system calls, or sockets of netlink")

CALLS = {
    "x86_64": {"send": (44, 46, 40), "receive": (45, 47), "accept": (288,)},
    "aarch64": {"send": (206, 211, 71), "receive": (207, 212), "accept": (242,)},
}
"""The numbers of sendto, sendmsg and sendfile, of recvfrom and recvmsg, and of accept4."""

needs_filter = pytest.mark.skipif(platform.machine() not in CALLS, reason="needs the numbers of the system calls")

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    """What Linux takes for a filter, struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def deny(kind: str, number: int) -> None:
    """Have these system calls fail with this error in the calling thread, to its end (seccomp(2))."""
    steps = [(LOAD, 0, 0, 0)]  # the number of the call
    for call in CALLS[platform.machine()][kind]:
        steps += [(EQUAL, 0, 1, call), (RETURN, 0, 0, FAIL | number)]
    steps.append((RETURN, 0, 0, ALLOW))
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    room = ctypes.create_string_buffer(code, len(code))
    program = Program(len(steps), ctypes.addressof(room))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0) == 0, os.strerror(ctypes.get_errno())


def submit_denied(port: unio.Port, operation: unio.Operation, kind: str, number: int) -> bool:
    """Submit it in a thread in which its call fails; returns what submit returns."""

    def submit() -> bool:
        support.assert_idle(port)  # so that the thread is one that waits
        deny(kind, number)
        return port.submit(operation)

    return support.Background(submit).result()


SENDS: dict[str, Callable[[unio.Handle, Any], unio.Operation]] = {
    "send": lambda handle, _: unio.Send(handle, b"data"),
    "several": lambda handle, _: unio.Send(handle, [b"da", b"ta"]),
    "file": unio.SendFile,
}


@pytest.mark.clause("L4", "O4", "O9")
@needs_filter
@pytest.mark.parametrize("make", SENDS.values(), ids=SENDS)
def test_a_send_for_which_there_is_no_room_in_some_queue_is_made_later(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Any, make: Any
) -> None:
    (tmp_path / "file").write_bytes(b"data")
    file = resources.enter_context(unio.open(tmp_path / "file"))
    near, far = channels.outgoing(resources, "tcp")
    # So that a plain one is tried within submit on every backend.
    send = make(port.associate(near, skip_on_success=True), file)
    if not submit_denied(port, send, "send", errno.ENOBUFS):  # as where the kernel itself does it, which no filter sees
        assert support.completion(port) == (None, send, 4, None)
    assert (send.transferred, send.error) == (4, None)
    assert channels.take(far, 4) == b"data"


@pytest.mark.clause("L4", "O3", "C2")
@needs_filter
@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_a_receive_for_which_memory_is_lacking_says_so_and_can_be_submitted_again(
    port: unio.Port, resources: contextlib.ExitStack, number: int
) -> None:
    near, far = channels.incoming(resources, "tcp")
    recv = unio.Recv(port.associate(near, skip_on_success=True), bytearray(10))
    assert not submit_denied(port, recv, "receive", number)
    found = support.completion(port)
    assert (found.operation, found.transferred, found.error.errno) == (recv, 0, number)
    far.send(b"data")
    assert support.run(port, recv) == (None, recv, 4, None)


@pytest.mark.clause("L4", "O1", "C2")
@needs_filter
@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_an_accept_for_which_memory_is_lacking_says_so_and_can_be_submitted_again(
    port: unio.Port, resources: contextlib.ExitStack, number: int
) -> None:
    if port.backend == "io_uring":
        pytest.skip("no filter of system calls reaches what the kernel does by itself")
    listening = channels.listener(resources, "tcp")
    accept = unio.Accept(port.associate(listening))
    submit_denied(port, accept, "accept", number)
    found = support.completion(port)
    assert (found.operation, found.error.errno, accept.socket) == (accept, number, None)
    client = resources.enter_context(support.connect(listening))
    assert support.run(port, accept) == (None, accept, 0, None)
    assert resources.enter_context(accept.socket).getpeername() == client.getsockname()


RTM_GETLINK, NLM_F_REQUEST = 18, 1


@pytest.mark.clause("L4", "O7", "C2")
def test_a_socket_that_says_so_of_messages_that_it_has_lost_is_heard(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """Here ENOBUFS is news: to try again and say nothing would hide that some are missing."""
    near = resources.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
    near.bind((0, 0))
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    ask = struct.pack("=IHHIIBBHiII", 32, RTM_GETLINK, NLM_F_REQUEST, 1, 0, 0, 0, 0, 1, 0, 0)
    for _ in range(200):  # each has an answer, and they don't fit
        near.send(ask)
    recv = unio.RecvFrom(port.associate(near), bytearray(1 << 16))
    assert support.run(port, recv).error.errno == errno.ENOBUFS
    found = support.run(port, recv)
    assert found.error is None
    assert found.transferred > 0
