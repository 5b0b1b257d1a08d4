"""How operations on sockets are started and finished, and those that a pipe has too.

A start makes the one call of Windows' and says how that went; a finish takes its results over (operations has the rules
of both). They change the results of the one operation that they are given, and what the handle knows of its connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, Any, cast

from unio.backends.kernel import win32
from unio.backends.kernel.win32 import NULL, SEE_LAST_ERROR, kernel32, ws2_32
from unio.backends.kernel.win32_api import ffi
from unio.backends.windows.files import CHUNK_MAX, finish_file, start_chunk
from unio.backends.windows.overlapped import VECTOR_MAX, overlapped_of
from unio.errors import cancelled, not_listening
from unio.handle import Kind
from unio.operations import Route

if TYPE_CHECKING:
    from unio.backends.windows.handle import IocpHandle
    from unio.operations import Accept, Connect, Operation, Recv, RecvFrom, Send, SendFile, SendTo

ADDRESS_SIZE = 28
"""The size of a sockaddr_in6; a sockaddr_in is smaller."""

GONE = (win32.ERROR_NETNAME_DELETED, 1236, 10053, 10054)
"""The peer reset the connection, or it was lost: 1236 and 10053 are what a send may say of it."""

LEFT = (59, *GONE)
"""What AcceptEx ends with when the peer left before it was accepted: Windows says 64, and Wine 59
(ERROR_UNEXP_NET_ERR)."""

UNREACHABLE = (1234, 10054, 10061, win32.ERROR_NETNAME_DELETED, 1225)


def _room(handle: IocpHandle, operation: Recv | RecvFrom) -> tuple[memoryview, ...]:
    """The buffers to receive into. A pipe takes one; what did not fit into those of one call a datagram would lose."""
    most = 1 if handle.kind is Kind.PIPE else VECTOR_MAX
    if len(operation._views) <= most or (handle.stream and most > 1):
        return operation._views
    overlapped_of(operation).bounce = overlapped_of(operation).bounce or (memoryview(bytearray(operation._size)),)
    return overlapped_of(operation).bounce


def _scatter(operation: Recv | RecvFrom, count: int) -> None:
    """Bring what was received to where it belongs."""
    for received in overlapped_of(operation).bounce:
        done = 0
        for view in operation._views:
            part = received[done : min(done + len(view), count)]
            view[: len(part)] = part
            done += len(part)


def start_recv(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("Recv", operation), overlapped_of(operation)
    overlapped.reset()
    if handle.disconnected:
        return win32.DONE_HERE
    if handle.kind is Kind.PIPE:
        view = next((view for view in _room(handle, operation) if len(view)), None)
        overlapped.kept = ffi.from_buffer(view) if view is not None else NULL
        overlapped.views = None
        size = len(view) if view is not None else 0
        return (
            0
            if kernel32.ReadFile(handle.pointer, overlapped.kept, min(size, CHUNK_MAX), NULL, overlapped.pointer)
            else SEE_LAST_ERROR
        )
    buffers, count = overlapped.wsabufs(_room(handle, operation))
    # A receive of no bytes consumes nothing on a stream; a datagram would be lost to it, so that one only peeks.
    overlapped.flags[0] = win32.MSG_PEEK if operation._size == 0 and not handle.stream else 0
    return (
        SEE_LAST_ERROR
        if ws2_32.WSARecv(handle.number, buffers, count, NULL, overlapped.flags, overlapped.pointer, NULL)
        else 0
    )


def finish_recv(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation = cast("Recv", operation)
    _scatter(operation, count)
    operation._transferred = count
    if code == win32.ERROR_ACCESS_DENIED and handle.kind is Kind.PIPE:
        return win32.ERROR_INVALID_HANDLE  # the end to send to: EBADF, as POSIX has it
    if code == win32.ERROR_BROKEN_PIPE and handle.kind is Kind.PIPE and not handle.closed:
        return 0  # nobody has the other end any more: the end of the stream
    if code in (win32.ERROR_MORE_DATA, win32.WSAEMSGSIZE) and operation._size == 0:
        operation._transferred = 0
        return 0
    if handle.disconnected and code:
        return 0  # this side has ended the connection, and nothing more comes
    return code


def start_recv_from(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("RecvFrom", operation), overlapped_of(operation)
    overlapped.reset()
    if overlapped.extra is None:
        overlapped.extra = ffi.new("char[]", ADDRESS_SIZE), ffi.new("int *")
    sender, length = overlapped.extra
    length[0] = ADDRESS_SIZE
    buffers, count = overlapped.wsabufs(_room(handle, operation))
    overlapped.flags[0] = win32.MSG_PEEK if operation._size == 0 else 0
    failed = ws2_32.WSARecvFrom(
        handle.number, buffers, count, NULL, overlapped.flags, sender, length, overlapped.pointer, NULL
    )
    return SEE_LAST_ERROR if failed else 0


def finish_recv_from(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation = cast("RecvFrom", operation)
    if code in UNREACHABLE and not handle.connected:
        return None  # an earlier datagram met nobody, which is none of this socket's business: receive again
    _scatter(operation, count)
    if code in (0, win32.ERROR_MORE_DATA, win32.WSAEMSGSIZE):
        operation.address = win32.unpack_address(bytes(ffi.buffer(overlapped_of(operation).extra[0])))
    operation._transferred = count
    if code in (win32.ERROR_MORE_DATA, win32.WSAEMSGSIZE) and operation._size == 0:
        return 0
    return code


def start_accept(handle: IocpHandle, operation: Operation) -> int:
    overlapped = overlapped_of(operation)
    overlapped.reset()
    if not handle.stream:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    listener = cast("socket.socket", handle.socket)
    overlapped.accepted = socket.socket(listener.family, listener.type, listener.proto)
    if overlapped.extra is None:
        overlapped.extra = ffi.new("char[]", 2 * (ADDRESS_SIZE + 16))
    accept_ex = handle.extension(win32.WSAID_ACCEPTEX, "LPFN_ACCEPTEX")
    size = ADDRESS_SIZE + 16
    return (
        0
        if accept_ex(
            handle.number,
            overlapped.accepted.fileno(),
            overlapped.extra,
            0,
            size,
            size,
            overlapped.count,
            overlapped.pointer,
        )
        else SEE_LAST_ERROR
    )


def finish_accept(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation, overlapped = cast("Accept", operation), overlapped_of(operation)
    accepted = overlapped.accepted
    if code:
        if accepted is not None:
            accepted.close()
        overlapped.accepted = None
        if code == win32.WSAEINVAL:
            overlapped.failure = not_listening()
            overlapped.failure.winerror = code
        return None if code in LEFT else code  # that one is gone: wait for the next
    assert accepted is not None
    listener = ffi.new("SOCKET *", handle.number)
    failed = ws2_32.setsockopt(
        accepted.fileno(),
        socket.SOL_SOCKET,
        win32.SO_UPDATE_ACCEPT_CONTEXT,
        ffi.cast("char *", listener),
        ffi.sizeof("SOCKET"),
    )
    del failed  # without it the socket works, but for getpeername and shutdown: a peer that has left makes it fail
    try:
        address = accepted.getpeername()
    except OSError:  # the peer has left already; Windows has written down who it was
        address = win32.accepted_address(overlapped.extra, ADDRESS_SIZE + 16)
        if address is None:  # but where it was reset before, Wine 8 has not
            accepted.close()
            overlapped.accepted = None
            return None
    accepted.setblocking(False)
    operation.socket = accepted
    operation.address = address
    overlapped.accepted = None
    return 0


def fits_one_call(operation: Send) -> bool:
    return len(operation._views) <= VECTOR_MAX and operation._size <= CHUNK_MAX


def _next_part(operation: Send) -> tuple[memoryview, ...]:
    """As much of a large send as one call takes."""
    done, room = operation.transferred, CHUNK_MAX
    part: list[memoryview] = []
    for view in operation._views:
        if done >= len(view):
            done -= len(view)
            continue
        part.append(view[done : done + room])
        room -= len(part[-1])
        done = 0
        if room == 0 or len(part) == VECTOR_MAX:
            break
    return tuple(part)


def _joined(views: tuple[memoryview, ...]) -> tuple[memoryview, ...]:
    """The buffers as few enough for one call: what is sent with one call is never interleaved."""
    return views if len(views) <= VECTOR_MAX else (memoryview(b"".join(views)),)


def start_send(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("Send", operation), overlapped_of(operation)
    overlapped.reset()
    if handle.kind is Kind.PIPE:
        # A write that is broken off does not say how much of it was read, so that one call is not given too much.
        return start_chunk(handle, operation, kernel32.WriteFile, win32.PIPE_BUFFER)
    whole = not operation.transferred and fits_one_call(operation)
    views = operation._views if whole else _next_part(operation)
    buffers, count = overlapped.wsabufs(views)
    return SEE_LAST_ERROR if ws2_32.WSASend(handle.number, buffers, count, NULL, 0, overlapped.pointer, NULL) else 0


def finish_send(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation = cast("Send", operation)
    if handle.kind is Kind.PIPE:
        return finish_file(handle, operation, code, count)
    operation._transferred += count
    if code in GONE and not handle.disconnected:
        return win32.ERROR_NETNAME_DELETED
    return code if code or operation.transferred >= operation._size or not handle.stream else None


def start_send_to(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("SendTo", operation), overlapped_of(operation)
    overlapped.reset()
    sock = cast("socket.socket", handle.socket)
    address = win32.pack_address(sock.family, operation._address)
    overlapped.extra = ffi.new("char[]", address)
    buffers, count = overlapped.wsabufs(_joined(operation._views))
    failed = ws2_32.WSASendTo(
        handle.number, buffers, count, NULL, 0, overlapped.extra, len(address), overlapped.pointer, NULL
    )
    return SEE_LAST_ERROR if failed else 0


def start_connect(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("Connect", operation), overlapped_of(operation)
    overlapped.reset()
    sock = cast("socket.socket", handle.socket)
    if not handle.stream:
        sock.connect(operation._address)  # nothing is sent: the socket notes the address
        win32.report_unreachable(sock, report=True)
        return win32.DONE_HERE
    try:
        bound = sock.getsockname()[1] != 0
    except OSError:  # WSAEINVAL: it is not bound, which ConnectEx wants it to be
        bound = False
    if not bound:
        sock.bind(("::" if sock.family == socket.AF_INET6 else "0.0.0.0", 0))  # noqa: S104 - the system chooses
    address = win32.pack_address(sock.family, operation._address)
    overlapped.extra = ffi.new("char[]", address)
    connect_ex = handle.extension(win32.WSAID_CONNECTEX, "LPFN_CONNECTEX")
    return (
        0
        if connect_ex(handle.number, overlapped.extra, len(address), NULL, 0, overlapped.count, overlapped.pointer)
        else SEE_LAST_ERROR
    )


def finish_connect(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    if code:
        return code
    if handle.stream and handle.is_open():  # else the number may be another's
        ws2_32.setsockopt(handle.number, socket.SOL_SOCKET, win32.SO_UPDATE_CONNECT_CONTEXT, NULL, 0)
    handle.connected = True
    return 0


def start_shutdown(handle: IocpHandle, operation: Operation) -> int:
    cast("socket.socket", handle.socket).shutdown(socket.SHUT_WR)
    return win32.DONE_HERE


def start_disconnect(handle: IocpHandle, operation: Operation) -> int:
    overlapped = overlapped_of(operation)
    overlapped.reset()
    if handle.disconnected:
        return win32.DONE_HERE
    if handle.skips_packets:  # Wine's DisconnectEx then promises a packet that never comes; this ends the same side
        start_shutdown(handle, operation)
        handle.disconnected = True
        return win32.DONE_HERE
    disconnect_ex = handle.extension(win32.WSAID_DISCONNECTEX, "LPFN_DISCONNECTEX")
    handle.disconnected = True
    return 0 if disconnect_ex(handle.number, overlapped.pointer, 0, 0) else SEE_LAST_ERROR


def finish_disconnect(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    if code:
        if overlapped_of(operation).given:  # one that was cancelled before says nothing of another that has succeeded
            handle.disconnected = False
        return code
    # DisconnectEx has ended the write side. Receives and polls end with the read side, as on the other backends.
    with contextlib.suppress(OSError):
        cast("socket.socket", handle.socket).shutdown(socket.SHUT_RD)
    with handle.lock:
        for each in handle.pending.values():
            pointer = {Route.INCOMING: handle.pointer, Route.READINESS: handle.device.opened}.get(each.route)
            if pointer is not None:
                kernel32.CancelIoEx(pointer, overlapped_of(each).pointer)
    return 0


def start_send_file(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("SendFile", operation), overlapped_of(operation)
    file = win32.file_handle(operation._file)
    left = _left_to_send(operation, file)
    if left == 0:  # to TransmitFile, 0 bytes mean the whole file
        return win32.DONE_HERE
    overlapped.reset(operation._offset + operation.transferred)
    transmit_file = handle.extension(win32.WSAID_TRANSMITFILE, "LPFN_TRANSMITFILE")
    if not handle.is_open():  # any more: the file may be an object of the program's, whose code has just been run
        raise cancelled("the object behind the handle was closed")
    return (
        0
        if transmit_file(handle.number, file, min(left, CHUNK_MAX), 0, overlapped.pointer, NULL, 0)
        else SEE_LAST_ERROR
    )


def _left_to_send(operation: SendFile, file: Any) -> int:
    size = ffi.new("int64_t *")
    win32.check(kernel32.GetFileSizeEx(file, size))
    left: int = max(0, size[0] - operation._offset - operation.transferred)
    return left if operation._count is None else min(left, operation._count - operation.transferred)


def finish_send_file(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation = cast("SendFile", operation)
    operation._transferred += count
    if code == win32.ERROR_ACCESS_DENIED:
        return win32.ERROR_INVALID_HANDLE  # the file is not open for reading: EBADF, as POSIX has it
    if code:
        return win32.ERROR_NETNAME_DELETED if code in GONE and not handle.disconnected else code
    try:
        return None if _left_to_send(operation, win32.file_handle(operation._file)) else 0
    except (OSError, OverflowError, TypeError):
        return None  # the start finds out what is wrong with the file
