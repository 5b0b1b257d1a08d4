"""What Windows needs to know of an operation in flight, and how each is started and finished there.

It changes the results of the one operation that it is given; its status, and when it is started and ended, are the
port's (iocp).

An :class:`Overlapped` is the native side of an operation: its OVERLAPPED and the buffers that Windows writes to or
reads from. It belongs to the operation and is used again with it, so that a submission allocates nothing.

Starting makes the one Win32 call and returns its error code: 0 when it has ended at once, ERROR_IO_PENDING when it will
end later, anything else when it has failed. Windows queues a packet in the first two cases and not in the third.
Finishing turns the code that the packet brought into the operation's results, and says whether the operation has ended
or goes on with another call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from unio.arguments import OFFSET_MAX
from unio.backends.kernel import win32
from unio.backends.kernel.win32 import ERROR_IO_PENDING, NULL, kernel32, last_error, ws2_32
from unio.backends.kernel.win32_api import ffi
from unio.backends.windows.kernel_queue import PacketKey, surely
from unio.errors import cancelled, not_listening
from unio.handle import Kind
from unio.operations import Readiness, Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.windows.handle import IocpHandle
    from unio.operations import (
        Accept,
        Connect,
        Operation,
        Poll,
        Read,
        Recv,
        RecvFrom,
        Send,
        SendFile,
        SendTo,
        Write,
    )

CHUNK_MAX = 0x7FFFF000
"""The most bytes that one call is asked for: a length is a DWORD, and TransmitFile's must stay below 2^31 - 1."""

VECTOR_MAX = 1024
"""The most buffers that one call is given. Windows names no limit; Wine has this one, and takes part of the rest."""

ADDRESS_SIZE = 28
"""The size of a sockaddr_in6; a sockaddr_in is smaller."""

GONE = (win32.ERROR_NETNAME_DELETED, 1236, 10053, 10054)
"""The peer reset the connection, or it was lost: 1236 and 10053 are what a send may say of it."""

# afd.h's bits of AFD_POLL_HANDLE_INFO.Events
AFD_POLL_RECEIVE = 0x1
AFD_POLL_SEND = 0x4
AFD_POLL_DISCONNECT = 0x8
AFD_POLL_ABORT = 0x10
AFD_POLL_LOCAL_CLOSE = 0x20
AFD_POLL_ACCEPT = 0x80
AFD_POLL_CONNECT_FAIL = 0x100
IOCTL_AFD_POLL = 0x00012024


class Overlapped:
    """The native side of one operation."""

    __slots__ = (
        "accepted",
        "address",
        "bounce",
        "buffers",
        "count",
        "extra",
        "failure",
        "finished",
        "flags",
        "given",
        "kept",
        "pointer",
        "result",
        "started",
        "views",
    )

    def __init__(self) -> None:
        self.pointer: Any = ffi.new("OVERLAPPED *")
        self.address = int(ffi.cast("uintptr_t", self.pointer))
        self.count: Any = ffi.new("DWORD *")
        self.flags: Any = ffi.new("DWORD *")
        self.views: Any = None
        self.kept: Any = None
        self.buffers: Any = NULL
        self.bounce: tuple[memoryview, ...] = ()  # one buffer in place of too many for a datagram
        self.extra: Any = None
        self.accepted: socket.socket | None = None
        self.failure: OSError | None = None  # what the start itself raised
        self.finished = False  # whether its results were taken over, and what came of that was not acted on yet
        self.result: int | None = None  # what came of it
        self.given = False  # whether Windows was given it, and its direction counts it
        self.started = False  # whether the call that starts it has returned, so that it can be cancelled

    def let_go(self) -> None:
        """Release the buffers, so that the caller can resize them."""
        self.bounce = ()
        self.views = self.kept = None
        self.buffers = NULL

    def hold(self) -> tuple[object, ...]:
        """All that Windows may use while the operation is in flight."""
        return self, self.kept, self.buffers, self.bounce, self.extra, self.accepted

    def begin(self) -> None:
        """Start another flight."""
        self.failure = None
        self.given = self.started = self.finished = False

    def reset(self, offset: int = 0) -> None:
        """Make the OVERLAPPED ready for another call."""
        overlapped = self.pointer
        overlapped.Internal = win32.STATUS_PENDING
        overlapped.InternalHigh = 0
        overlapped.Offset = offset & 0xFFFFFFFF
        overlapped.OffsetHigh = offset >> 32

    def wsabufs(self, views: tuple[memoryview, ...]) -> tuple[Any, int]:
        """The buffers as an array of WSABUF, made once for as long as the operation names the same ones."""
        if self.views is not views:
            self.views = None  # in the middle of this there may be no memory
            self.kept = [ffi.from_buffer(view) for view in views[:VECTOR_MAX]]
            self.buffers = ffi.new("WSABUF[]", max(1, len(self.kept)))
            for index, (view, pointer) in enumerate(zip(views, self.kept, strict=False)):
                self.buffers[index].len = len(view)
                self.buffers[index].buf = ffi.cast("char *", pointer)
            self.views = views
        return self.buffers, max(1, len(self.kept))  # one of no length, where there is nothing


def _overlapped_of(operation: Operation) -> Overlapped:
    return cast("Overlapped", operation._native)


def _code(succeeded: Any) -> int:
    """The code of a call that has been made: a start that raises has made none."""
    return 0 if succeeded else surely(last_error)


# Receiving


def _room(handle: IocpHandle, operation: Recv | RecvFrom) -> tuple[memoryview, ...]:
    """The buffers to receive into. A pipe takes one; what did not fit into those of one call a datagram would lose."""
    most = 1 if handle.kind is Kind.PIPE else VECTOR_MAX
    if len(operation._views) <= most or (handle.stream and most > 1):
        return operation._views
    _overlapped_of(operation).bounce = _overlapped_of(operation).bounce or (memoryview(bytearray(operation._size)),)
    return _overlapped_of(operation).bounce


def _scatter(operation: Recv | RecvFrom, count: int) -> None:
    """Bring what was received to where it belongs."""
    for received in _overlapped_of(operation).bounce:
        done = 0
        for view in operation._views:
            part = received[done : min(done + len(view), count)]
            view[: len(part)] = part
            done += len(part)


def start_recv(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("Recv", operation), _overlapped_of(operation)
    overlapped.reset()
    if handle.disconnected:
        return win32.DONE_HERE
    if handle.kind is Kind.PIPE:
        view = next((view for view in _room(handle, operation) if len(view)), None)
        overlapped.kept = ffi.from_buffer(view) if view is not None else NULL
        overlapped.views = None
        size = len(view) if view is not None else 0
        return _code(kernel32.ReadFile(handle.pointer, overlapped.kept, min(size, CHUNK_MAX), NULL, overlapped.pointer))
    buffers, count = overlapped.wsabufs(_room(handle, operation))
    # A receive of no bytes consumes nothing on a stream; a datagram would be lost to it, so that one only peeks.
    overlapped.flags[0] = win32.MSG_PEEK if operation._size == 0 and not handle.stream else 0
    return _code(not ws2_32.WSARecv(handle.number, buffers, count, NULL, overlapped.flags, overlapped.pointer, NULL))


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
    operation, overlapped = cast("RecvFrom", operation), _overlapped_of(operation)
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
    return _code(not failed)


def finish_recv_from(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation = cast("RecvFrom", operation)
    if code in UNREACHABLE and not handle.connected:
        return None  # an earlier datagram met nobody, which is none of this socket's business: receive again
    _scatter(operation, count)
    if code in (0, win32.ERROR_MORE_DATA, win32.WSAEMSGSIZE):
        operation.address = win32.unpack_address(bytes(ffi.buffer(_overlapped_of(operation).extra[0])))
    operation._transferred = count
    if code in (win32.ERROR_MORE_DATA, win32.WSAEMSGSIZE) and operation._size == 0:
        return 0
    return code


LEFT = (59, *GONE)
"""What AcceptEx ends with when the peer left before it was accepted: Windows says 64, and Wine 59
(ERROR_UNEXP_NET_ERR)."""

UNREACHABLE = (1234, 10054, 10061, win32.ERROR_NETNAME_DELETED, 1225)


def start_accept(handle: IocpHandle, operation: Operation) -> int:
    overlapped = _overlapped_of(operation)
    overlapped.reset()
    if not handle.stream:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    listener = cast("socket.socket", handle.socket)
    overlapped.accepted = socket.socket(listener.family, listener.type, listener.proto)
    if overlapped.extra is None:
        overlapped.extra = ffi.new("char[]", 2 * (ADDRESS_SIZE + 16))
    accept_ex = handle.extension(win32.WSAID_ACCEPTEX, "LPFN_ACCEPTEX")
    size = ADDRESS_SIZE + 16
    return _code(
        accept_ex(
            handle.number,
            overlapped.accepted.fileno(),
            overlapped.extra,
            0,
            size,
            size,
            overlapped.count,
            overlapped.pointer,
        )
    )


def finish_accept(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation, overlapped = cast("Accept", operation), _overlapped_of(operation)
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


# Sending


EXCLUSIVE = ("connect", "disconnect", "send_file", "shutdown")


def goes_alone(handle: IocpHandle, operation: Operation) -> bool:
    """Whether an operation waits for those ahead of it in its direction, and lets none start beside it."""
    # A pipe's buffers are moved one by one, and so is a send that one call can't take: both must stay whole.
    return (
        operation.name in EXCLUSIVE
        or handle.kind is Kind.PIPE
        or (operation.name == "send" and not _fits_one_call(cast("Send", operation)))
    )


def may_go_on(operation: Operation) -> bool:
    """Whether an operation whose packet is on the way may take another call after it."""
    if operation.name in ("read", "send", "write"):
        operation = cast("Read | Send | Write", operation)
        return bool(operation.transferred + _overlapped_of(operation).pointer.InternalHigh < operation._size)
    return operation.name in ("accept", "poll", "recv_from", "send_file")


def _fits_one_call(operation: Send) -> bool:
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
    operation, overlapped = cast("Send", operation), _overlapped_of(operation)
    overlapped.reset()
    if handle.kind is Kind.PIPE:
        # A write that is broken off does not say how much of it was read, so that one call is not given too much.
        return _start_chunk(handle, operation, kernel32.WriteFile, win32.PIPE_BUFFER)
    whole = not operation.transferred and _fits_one_call(operation)
    views = operation._views if whole else _next_part(operation)
    buffers, count = overlapped.wsabufs(views)
    return _code(not ws2_32.WSASend(handle.number, buffers, count, NULL, 0, overlapped.pointer, NULL))


def finish_send(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation = cast("Send", operation)
    if handle.kind is Kind.PIPE:
        return finish_file(handle, operation, code, count)
    operation._transferred += count
    if code in GONE and not handle.disconnected:
        return win32.ERROR_NETNAME_DELETED
    return code if code or operation.transferred >= operation._size or not handle.stream else None


def start_send_to(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("SendTo", operation), _overlapped_of(operation)
    overlapped.reset()
    sock = cast("socket.socket", handle.socket)
    address = win32.pack_address(sock.family, operation._address)
    overlapped.extra = ffi.new("char[]", address)
    buffers, count = overlapped.wsabufs(_joined(operation._views))
    failed = ws2_32.WSASendTo(
        handle.number, buffers, count, NULL, 0, overlapped.extra, len(address), overlapped.pointer, NULL
    )
    return _code(not failed)


def start_connect(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("Connect", operation), _overlapped_of(operation)
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
    return _code(
        connect_ex(handle.number, overlapped.extra, len(address), NULL, 0, overlapped.count, overlapped.pointer)
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
    overlapped = _overlapped_of(operation)
    overlapped.reset()
    if handle.disconnected:
        return win32.DONE_HERE
    if handle.skips_packets:  # Wine's DisconnectEx then promises a packet that never comes; this ends the same side
        start_shutdown(handle, operation)
        handle.disconnected = True
        return win32.DONE_HERE
    disconnect_ex = handle.extension(win32.WSAID_DISCONNECTEX, "LPFN_DISCONNECTEX")
    handle.disconnected = True
    return _code(disconnect_ex(handle.number, overlapped.pointer, 0, 0))


def finish_disconnect(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    if code:
        if _overlapped_of(operation).given:  # one that was cancelled before says nothing of another that has succeeded
            handle.disconnected = False
        return code
    # DisconnectEx has ended the write side. Receives and polls end with the read side, as on the other backends.
    with contextlib.suppress(OSError):
        cast("socket.socket", handle.socket).shutdown(socket.SHUT_RD)
    with handle.lock:
        for each in handle.pending.values():
            if each.route in (Route.INCOMING, Route.READINESS):
                pointer = handle.pointer if each.route is Route.INCOMING else handle.afd()
                kernel32.CancelIoEx(pointer, _overlapped_of(each).pointer)
    return 0


def start_send_file(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("SendFile", operation), _overlapped_of(operation)
    file = win32.file_handle(operation._file)
    left = _left_to_send(operation, file)
    if left == 0:  # to TransmitFile, 0 bytes mean the whole file
        return win32.DONE_HERE
    overlapped.reset(operation._offset + operation.transferred)
    transmit_file = handle.extension(win32.WSAID_TRANSMITFILE, "LPFN_TRANSMITFILE")
    if not handle.is_open():  # any more: the file may be an object of the program's, whose code has just been run
        raise cancelled("the object behind the handle was closed")
    return _code(transmit_file(handle.number, file, min(left, CHUNK_MAX), 0, overlapped.pointer, NULL, 0))


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


# Files


def _start_chunk(handle: IocpHandle, operation: Read | Send | Write, call: Any, most: int = CHUNK_MAX) -> int:
    """Read or write the part of the buffers that comes next: Windows takes one buffer at a time here."""
    overlapped, done = _overlapped_of(operation), operation.transferred
    part = memoryview(b"")
    for view in operation._views:
        if done < len(view):
            part = view[done : done + most]
            break
        done -= len(view)
    overlapped.views = None
    overlapped.kept = ffi.from_buffer(part)
    return _code(call(handle.pointer, overlapped.kept, len(part), NULL, overlapped.pointer))


def _finish_chunk(operation: Read | Send | Write, code: int, count: int) -> int | None:
    operation._transferred += count
    if code == win32.ERROR_HANDLE_EOF:
        return 0
    return code if code or operation.transferred >= operation._size or count == 0 else None


def start_read(handle: IocpHandle, operation: Operation) -> int:
    operation = cast("Read", operation)
    offset = operation._offset + operation.transferred
    if operation._size == 0 or offset == OFFSET_MAX:  # where no file has anything
        return win32.DONE_HERE
    _overlapped_of(operation).reset(offset)
    return _start_chunk(handle, operation, kernel32.ReadFile, min(CHUNK_MAX, OFFSET_MAX - offset))


def start_write(handle: IocpHandle, operation: Operation) -> int:
    operation = cast("Write", operation)
    if operation._size == 0:
        return win32.DONE_HERE
    if operation._offset + operation._size > OFFSET_MAX:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    _overlapped_of(operation).reset(operation._offset + operation.transferred)
    return _start_chunk(handle, operation, kernel32.WriteFile)


def finish_file(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    if code == win32.ERROR_ACCESS_DENIED:
        code = win32.ERROR_INVALID_HANDLE  # not open for this: EBADF, as POSIX has it
    return _finish_chunk(cast("Read | Send | Write", operation), code, count)


def start_flush(handle: IocpHandle, operation: Operation) -> int:
    """Have a thread of the pool call FlushFileBuffers, which has no overlapped form.

    It gets a handle of its own: by the time that it comes to the call the number may be another's.
    """
    port = handle.port()
    assert port is not None
    copy = win32.duplicate(handle.pointer)
    try:
        port._pool.put(partial(_flush, handle, copy, _overlapped_of(operation).address))
    except BaseException:
        kernel32.CloseHandle(copy)
        raise
    return ERROR_IO_PENDING


def _flush(handle: IocpHandle, file: Any, address: int, refusal: OSError | None) -> None:
    code = _code(kernel32.FlushFileBuffers(file)) if refusal is None else win32.ERROR_MAX_THRDS_REACHED
    kernel32.CloseHandle(file)
    if code == win32.ERROR_ACCESS_DENIED:
        code = win32.ERROR_INVALID_HANDLE  # not open for writing
    port = handle.port()
    if port is not None:
        port._queue.post(code, PacketKey.FAILED, address)


# Readiness


def start_poll(handle: IocpHandle, operation: Operation) -> int:
    operation, overlapped = cast("Poll", operation), _overlapped_of(operation)
    overlapped.reset()
    if handle.kind is Kind.PIPE:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))  # Windows knows the readiness of sockets only
    if overlapped.extra is None:
        overlapped.extra = ffi.new("AFD_POLL_INFO *")
    info = overlapped.extra
    if handle.disconnected:
        info.Handles[0].Events = AFD_POLL_LOCAL_CLOSE
        return win32.DONE_HERE
    afd = handle.afd()  # maybe opened just now, and under the number of the socket, if that was closed meanwhile
    if not handle.is_open():
        raise cancelled("the object behind the handle was closed")
    info.Timeout = 0x7FFFFFFFFFFFFFFF
    info.NumberOfHandles = 1
    info.Exclusive = 0
    info.Handles[0].Handle = ffi.cast("HANDLE", win32.base_socket(handle.number))
    info.Handles[0].Status = 0
    events = AFD_POLL_ABORT | AFD_POLL_CONNECT_FAIL | AFD_POLL_LOCAL_CLOSE
    if operation._readiness & Readiness.READABLE:
        events |= AFD_POLL_RECEIVE | AFD_POLL_DISCONNECT | AFD_POLL_ACCEPT
    if operation._readiness & Readiness.WRITABLE:
        events |= AFD_POLL_SEND
    info.Handles[0].Events = events
    size = ffi.sizeof("AFD_POLL_INFO")
    status = win32.ntdll.NtDeviceIoControlFile(
        afd, NULL, NULL, overlapped.pointer, overlapped.pointer, IOCTL_AFD_POLL, info, size, info, size
    )
    if status in (0, win32.STATUS_PENDING):  # the device's own handle skips nothing: a packet comes either way
        return ERROR_IO_PENDING
    return win32.status_error(status & 0xFFFFFFFF)


def finish_poll(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    operation = cast("Poll", operation)
    info = _overlapped_of(operation).extra
    if info is None:  # it was ended before it came to the call
        return code
    if code and handle.disconnected:  # there is the end of the stream to receive, and no send would wait
        info.Handles[0].Events = AFD_POLL_LOCAL_CLOSE
    elif code:
        return code
    if not handle.is_open():
        return win32.ERROR_OPERATION_ABORTED
    events = info.Handles[0].Events
    found = Readiness(0)
    ended = events & (AFD_POLL_ABORT | AFD_POLL_CONNECT_FAIL | AFD_POLL_LOCAL_CLOSE)
    if ended or events & (AFD_POLL_RECEIVE | AFD_POLL_DISCONNECT | AFD_POLL_ACCEPT):
        found |= Readiness.READABLE
    if ended or events & AFD_POLL_SEND:
        found |= Readiness.WRITABLE
    operation.found = found & operation._readiness
    return 0 if operation.found else None


def finish_plain(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    """Most operations end as Windows says."""
    operation._transferred = count
    return code


STARTS: dict[str, Callable[[IocpHandle, Operation], int]] = {
    "accept": start_accept,
    "connect": start_connect,
    "disconnect": start_disconnect,
    "flush": start_flush,
    "poll": start_poll,
    "read": start_read,
    "recv": start_recv,
    "recv_from": start_recv_from,
    "send": start_send,
    "send_file": start_send_file,
    "send_to": start_send_to,
    "shutdown": start_shutdown,
    "write": start_write,
}


def finish(handle: IocpHandle, operation: Operation, code: int, count: int) -> int | None:
    """Take over what a packet brought. Returns the code that the operation ends with, or None if it goes on.

    Where there is no memory for that, what was moved is noted all the same.
    """
    before = operation._transferred
    try:
        try:
            return FINISHES[operation.name](handle, operation, code, count)
        except MemoryError:
            if operation._transferred is not before:
                raise
        return FINISHES[operation.name](handle, operation, code, count)  # there may be some by now
    except MemoryError as error:
        _overlapped_of(operation).failure = surely(win32.normal, error)
        return win32.ERROR_NOT_ENOUGH_MEMORY


FINISHES: dict[str, Callable[[IocpHandle, Operation, int, int], int | None]] = {
    "accept": finish_accept,
    "connect": finish_connect,
    "disconnect": finish_disconnect,
    "flush": finish_plain,
    "poll": finish_poll,
    "read": finish_file,
    "recv": finish_recv,
    "recv_from": finish_recv_from,
    "send": finish_send,
    "send_file": finish_send_file,
    "send_to": finish_plain,
    "shutdown": finish_plain,
    "write": finish_file,
}
