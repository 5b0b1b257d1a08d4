"""One attempt at each operation, the POSIX way: never blocking, on a socket, a pipe or (on the pool) a file.

It changes the results of the one operation that it is given, and what its handle remembers of the peer; queues, status
and locks are its caller's.

An attempt says how it went by what it returns. It raises :class:`BlockingIOError` when it would block,
:class:`RetryLater` when it would block and no readiness event will tell when it no longer does, and any other
:class:`OSError` when the operation has failed. ``operation.transferred`` counts what was done so far in any case.

Sockets are reached through the methods of :class:`socket.socket`, never by number: a socket object knows when it was
closed, so that an attempt can't hit a descriptor that has been reused since. They are called unbound, because a
subclass may have made something else of them (``ssl.SSLSocket`` does). What keeps the calls from waiting, and from
raising a signal, is in :mod:`unio.backends.engine.syscalls`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from unio.arguments import OFFSET_MAX, file_number
from unio.backends.engine.handle import Lifecycle, family_of, type_of
from unio.backends.engine.syscalls import (
    DONT_WAIT,
    NO_SIGNAL,
    RETRY_SECONDS,
    RetryLater,
    at_once,
    flush_file,
    read_pipe,
    send_at_once,
    send_part_of_file,
    unblock,
    write_pipe,
)
from unio.errors import as_oserror, not_listening
from unio.operations import (
    Accept,
    Connect,
    Read,
    Readiness,
    Recv,
    RecvFrom,
    Send,
    SendFile,
    SendTo,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unio.backends.engine.handle import EngineHandle
    from unio.operations import Operation


class Outcome(IntEnum):
    """What became of an attempt that did not raise."""

    DONE = 0  # the operation has ended; the next one of its direction may be attempted at once
    DRAINED = 1  # it has ended, and the next one would block: wait for an event first
    PROGRESS = 2  # some of it is done; try again
    BLOCKED = 3  # it would block


DONE, DRAINED, PROGRESS, BLOCKED = Outcome

ATTEMPTS_MAX = 16
"""How many attempts an owner makes in one direction before it lets the others have their turn."""

Judgement: TypeAlias = tuple[Outcome, OSError | None, float]
"""How an attempt went, its error, and how many seconds the direction rests unless an event comes."""

SEND_CHUNK = 256 * 1024
"""The most that one call sends of a buffer, in bytes. A call goes on for as long as the peer makes room, and
one on another processor may do that as fast as it is filled. So it is cut off, and other handles have their turn."""

FILE_CHUNK = 1024 * 1024
"""The most that one call sends of a file, by sendfile(2), in bytes. In quarters of this it takes the kernel a fifth
longer, on loopback."""

COPY_CHUNK = 64 * 1024
"""The most that one call sends of a file whose bytes have to be copied. It is below glibc's threshold of 128 KiB for
mapping memory anew each time."""

VECTOR_MAX = os.sysconf("SC_IOV_MAX") if os.sysconf("SC_IOV_MAX") > 0 else 1024

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

PAUSE_SECONDS = 0.1
"""How long a direction rests after the system lacked descriptors or memory, unless an event comes first."""

# What accept(2) says of a connection that was lost before it could be accepted, or of the network below it; the
# manual page of Linux asks programs to treat these like EAGAIN. (It lists EOPNOTSUPP as well, which is rather what a
# socket says that can't accept at all.)
CONNECTION_LOST = (errno.ECONNABORTED, errno.EPROTO)
NETWORK_LOST = tuple(
    getattr(errno, name)
    for name in ("ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH", "ENETUNREACH")
    if hasattr(errno, name)
)

HAS_SENDFILE = hasattr(os, "sendfile")  # NetBSD and OpenBSD have none

# What sendfile(2) says where this file or this socket can't be sent from within the kernel: ENOTSUP on macOS,
# EOPNOTSUPP on FreeBSD. EOVERFLOW is of an offset beyond what the file system could have; pread finds the end there.
NOT_FROM_KERNEL = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EOVERFLOW)

SOCK_NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0)  # macOS has none

TCP_INFO = getattr(socket, "TCP_INFO", None)  # macOS has another; its connect(2) leaves nothing for the first send
TCP_SYN_SENT = 2  # the first byte of what TCP_INFO tells, on Linux and FreeBSD

_accept: Callable[[socket.socket], tuple[int, Any]] = socket.SocketType._accept  # type: ignore[attr-defined]
_connect_ex = socket.socket.connect_ex
_getpeername = socket.socket.getpeername
_getsockopt = socket.socket.getsockopt
_recv = socket.socket.recv
_recv_into = socket.socket.recv_into
_recvmsg_into = socket.socket.recvmsg_into
_send = socket.socket.send
_sendmsg = socket.socket.sendmsg
_shutdown = socket.socket.shutdown


def _socket(handle: EngineHandle) -> socket.socket:
    return cast("socket.socket", handle.socket)


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def judged(handle: EngineHandle, raised: Exception) -> tuple[Outcome, OSError | None, float]:
    """What it means that an attempt raised: how it went, its error, and how many seconds the direction rests.

    If the handle turns out to be closed, it leaves its port; so the caller holds no lock.
    """
    if isinstance(raised, BlockingIOError) and raised.errno != errno.EALREADY:
        return BLOCKED, None, 0.0
    if isinstance(raised, RetryLater):
        return BLOCKED, None, raised.delay
    failure = as_oserror(raised)
    if failure.errno == errno.EBADF and not handle.is_open():
        handle.leave(Lifecycle.CLOSING)  # which ends the operation in its turn, once its direction has been given up
        return BLOCKED, None, 0.0
    under_way = handle.outgoing.first
    if under_way is not None and under_way.name == "connect" and under_way._native is not None:
        handle.failure = failure.errno or 0  # a receive has taken it from the socket, which tells it once
    # The caller hears of exhaustion, and the operations behind this one rest: one that is submitted again at once would
    # fail at once, for as long as the descriptors or the memory are lacking.
    if failure.errno in EXHAUSTED:
        return DRAINED, failure, PAUSE_SECONDS
    return DONE, failure, 0.0


# Receiving


def recv(handle: EngineHandle, operation: Operation) -> Outcome:
    operation = cast("Recv", operation)
    views, size = operation._views, operation._size
    if size == 0:
        return _await_data(handle)
    if handle.socket is None:
        operation._transferred = read_pipe(handle, views[:VECTOR_MAX])
        return DONE
    if not handle.stream:
        return _recv_message(handle, operation)
    if len(views) == 1:
        count = at_once(_recv_into, handle.socket, views[0], 0, DONT_WAIT)
    else:
        count = at_once(_recvmsg_into, handle.socket, views[:VECTOR_MAX], 0, DONT_WAIT)[0]
    return _received(handle, operation, count)


def _received(handle: EngineHandle, operation: Recv | RecvFrom, count: int) -> Outcome:
    """Judge what a receive from a socket has returned."""
    operation._transferred = count
    # A TCP receive that did not fill the buffer has emptied the socket: whatever comes from now on is a new edge
    # (epoll(7), question 9), so that the next attempt can wait for it. Not so once the end of the stream or urgent data
    # have been seen: both make receives short with more behind them, and no further edge.
    short = 0 < count < operation._size and len(operation._views) <= VECTOR_MAX
    if short and handle.shows_drained and not handle.ended:
        return DRAINED
    return DONE


def judge_recv(handle: EngineHandle, operation: Operation, result: int) -> Outcome:
    """Judge it of a socket of datagrams as well; the sender of one was noted by who made the call."""
    if result < 0:
        raise receiving_failed(operation, -result)
    return _received(handle, cast("Recv | RecvFrom", operation), result)


def receiving_failed(operation: Operation, number: int) -> OSError:
    """What to raise where C's call has failed, or has filled the buffer with a part of a datagram."""
    return cut_off() if number == errno.EMSGSIZE and operation._transferred else failed(number)


def cut_off() -> OSError:
    return OSError(errno.EMSGSIZE, "the datagram is larger than the buffer; the rest of it is lost")


def recv_from(handle: EngineHandle, operation: Operation) -> Outcome:
    operation = cast("RecvFrom", operation)
    if operation._size == 0:
        return _await_data(handle)
    return _recv_message(handle, operation)


def _recv_message(handle: EngineHandle, operation: Recv | RecvFrom) -> Outcome:
    views = operation._views
    if len(views) <= VECTOR_MAX:
        count, _, flags, address = at_once(_recvmsg_into, _socket(handle), views, 0, DONT_WAIT)
    else:  # a datagram comes with one call or not at all
        whole = bytearray(operation._size)
        count, _, flags, address = at_once(_recvmsg_into, _socket(handle), [whole], 0, DONT_WAIT)
        _scatter(memoryview(whole)[:count], views)
    operation._transferred = count
    if isinstance(operation, RecvFrom):
        operation.address = address
    if flags & socket.MSG_TRUNC:
        raise cut_off()
    return DONE


def _scatter(data: memoryview, views: Sequence[memoryview]) -> None:
    for view in views:
        part = data[: len(view)]
        view[: len(part)] = part
        data = data[len(part) :]


def _await_data(handle: EngineHandle) -> Outcome:
    """Find out whether there is something to receive, and leave it there."""
    if handle.socket is not None:
        at_once(_recv, handle.socket, 1, socket.MSG_PEEK | DONT_WAIT)
        return DONE
    return DONE if _ready(handle.checked_number(), select.POLLIN) else BLOCKED


def _ready(number: int, events: int) -> int:
    poll = select.poll()
    poll.register(number, events)
    found = poll.poll(0)
    return found[0][1] if found else 0


def accept(handle: EngineHandle, operation: Operation) -> Outcome:
    operation = cast("Accept", operation)
    unblock(handle)
    try:
        number, operation.address = at_once(_accept, _socket(handle))
    except OSError as error:
        judged = not_accepted(error)
        if judged is None:
            raise
        return judged
    operation.socket = _made_socket(_socket(handle), number)
    operation.socket.setblocking(False)
    return DONE


def _made_socket(listener: socket.socket, number: int, flags: int = 0) -> socket.socket:
    """The socket object of an accepted connection, as socket.accept makes it, but for the looking up of names."""
    try:
        return socket.socket(family_of(listener), type_of(listener) | flags, listener.proto, fileno=number)
    except BaseException:
        os.close(number)
        raise


def unblocked_socket(listener: socket.socket, number: int) -> socket.socket:
    """The same, where the descriptor doesn't block any more: the object is told so, by a flag where there is one."""
    made = _made_socket(listener, number, SOCK_NONBLOCK)
    if not SOCK_NONBLOCK:
        made.setblocking(False)
    return made


def not_accepted(error: OSError) -> Outcome | None:
    """Judge that accept(2) has failed; None leaves it to the caller to raise the error.

    Raised here, it would lead to this call, and this call to it: a cycle for the garbage collector, at each accept that
    would block.
    """
    if error.errno in CONNECTION_LOST:
        return PROGRESS
    if error.errno in NETWORK_LOST:
        raise RetryLater(RETRY_SECONDS)
    if error.errno == errno.EINVAL:
        raise not_listening() from error
    return None


# Sending


def _peer_gone(handle: EngineHandle, error: BrokenPipeError) -> OSError:
    """What EPIPE, "you can't write here", means on a socket; other systems tell the cases apart themselves."""
    if handle.shut_down:
        return error
    sock = _socket(handle)
    if family_of(sock) in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] == 0:
        return failed(errno.ENOTCONN)  # it has not even a local address: it was never connected
    return failed(errno.ECONNRESET)


def _misses_writable(handle: EngineHandle) -> bool:
    """Whether no event tells of room: a local datagram socket waits for its receiver's queue, and not for its own."""
    return not handle.stream and family_of(_socket(handle)) not in (socket.AF_INET, socket.AF_INET6)


def sending_failed(handle: EngineHandle, error: OSError) -> Exception:
    """What to raise for the error of a call that sends."""
    if isinstance(error, BrokenPipeError):
        return error if handle.socket is None else _peer_gone(handle, error)
    if error.errno == errno.ENOBUFS or (error.errno == errno.EAGAIN and _misses_writable(handle)):
        return RetryLater(RETRY_SECONDS)
    if error.errno == errno.EPROTOTYPE and handle.stream:  # macOS, while a connection is taken down: EPIPE is next
        return RetryLater(RETRY_SECONDS)
    return error


def _next_part(views: Sequence[memoryview], done: int) -> list[memoryview]:
    """What one call sends of a stream, when *done* bytes were sent: the next buffers, up to SEND_CHUNK bytes."""
    part: list[memoryview] = []
    room = SEND_CHUNK
    for view in remaining(views, done)[:VECTOR_MAX]:
        part.append(view[:room])
        room -= len(part[-1])
        if not room:
            break
    return part


def remaining(views: Sequence[memoryview], done: int) -> list[memoryview]:
    """The buffers that are left when *done* bytes of them are."""
    left = []
    for view in views:
        if done >= len(view):
            done -= len(view)
        else:
            left.append(view[done:] if done else view)
            done = 0
    return left


def send(handle: EngineHandle, operation: Operation) -> Outcome:
    operation = cast("Send", operation)
    return _send_views(handle, operation, None)


def send_to(handle: EngineHandle, operation: Operation) -> Outcome:
    operation = cast("SendTo", operation)
    return _send_views(handle, operation, operation._address)


def _send_views(handle: EngineHandle, operation: Send | SendTo, address: Any) -> Outcome:
    views, done = operation._views, operation.transferred
    try:
        if handle.socket is None:
            count = write_pipe(handle, _next_part(views, done))
        elif len(views) == 1 and address is None:
            whole = not done and (operation._size <= SEND_CHUNK or not handle.stream)
            part = views[0] if whole else views[0][done : done + SEND_CHUNK]
            count = send_at_once(_send, handle, part, NO_SIGNAL | DONT_WAIT)
        else:
            parts = _next_part(views, done) if handle.stream else views
            if len(parts) > VECTOR_MAX:  # a datagram leaves with one call
                parts = [memoryview(b"".join(parts))]
            count = send_at_once(_sendmsg, handle, parts, (), NO_SIGNAL | DONT_WAIT, address)
    except OSError as error:
        raise sending_failed(handle, error) from None
    return _sent(handle, operation, count)


def _sent(handle: EngineHandle, operation: Send | SendTo, count: int) -> Outcome:
    operation._transferred += count
    return DONE if operation.transferred == operation._size or not handle.stream else PROGRESS


def judge_send(handle: EngineHandle, operation: Operation, result: int) -> Outcome:
    if result < 0:
        raise sending_failed(handle, failed(-result))
    return _sent(handle, cast("Send", operation), result)


def connect(handle: EngineHandle, operation: Operation) -> Outcome:
    operation = cast("Connect", operation)
    sock = _socket(handle)
    number = 0
    if operation._native is None:
        handle.failure = 0
    else:  # on its way: see whether it has failed; what made an event of it may have taken the error from the socket
        number = _getsockopt(sock, socket.SOL_SOCKET, socket.SO_ERROR) or handle.failure
    # Calling connect once more tells the rest, and makes the socket itself notice that it is connected.
    if not number:
        unblock(handle)
        number = at_once(_connect_ex, sock, operation._address)
    if number == errno.ECONNABORTED and operation._native is None:  # Linux says so once, of one before that has failed
        number = at_once(_connect_ex, sock, operation._address)
    if number in (errno.EINPROGRESS, errno.EALREADY):
        if number == errno.EALREADY and operation._native is None:  # of another connect: it may be to another address
            raise failed(number)
        operation._native = "started"
        return BLOCKED
    if number == errno.EAGAIN:  # the backlog of a local listener is full (connect(2)), and no event will tell
        raise RetryLater(RETRY_SECONDS)
    if number and not (number == errno.EISCONN and operation._native is not None):
        raise failed(number)
    return connected(sock)


def connected(sock: socket.socket) -> Outcome:
    """Judge a socket of which connect(2) has said that it is connected."""
    try:
        _getpeername(sock)
    except OSError as error:
        number = _getsockopt(sock, socket.SOL_SOCKET, socket.SO_ERROR)
        # The first bytes to be sent may be what opens the connection (TCP_FASTOPEN_CONNECT).
        if number or not is_connecting(sock):
            raise failed(number or errno.ECONNRESET) from error  # it was made, and is gone already
    return DONE


def is_connecting(sock: socket.socket) -> bool:
    """Whether a socket of TCP has a connect behind it that has not ended, as far as the system tells."""
    try:
        return TCP_INFO is not None and _getsockopt(sock, socket.IPPROTO_TCP, TCP_INFO, 1)[0] == TCP_SYN_SENT
    except OSError:  # it is no socket of TCP
        return False


def shutdown(handle: EngineHandle, operation: Operation) -> Outcome:
    _shutdown(_socket(handle), socket.SHUT_WR)
    handle.shut_down = True
    return DONE


def disconnect(handle: EngineHandle, operation: Operation) -> Outcome:
    _shutdown(_socket(handle), socket.SHUT_RDWR)
    handle.shut_down = True
    return DONE


def send_file(handle: EngineHandle, operation: Operation) -> Outcome:
    operation = cast("SendFile", operation)
    done, whole = operation.transferred, operation._count
    offset = operation._offset + done
    chunk = min(FILE_CHUNK, OFFSET_MAX - offset)
    if whole is not None:
        chunk = min(chunk, whole - done)
    if chunk == 0:
        return DONE
    file = file_number(operation._file)
    try:
        if HAS_SENDFILE and operation._native is None:
            unblock(handle)
            count = send_part_of_file(handle.checked_number(), file, offset, chunk)
        else:
            data = os.pread(file, min(chunk, COPY_CHUNK), offset)
            handle.checked_number()  # the file may be an object of the program's, whose code has just been run
            count = send_at_once(_send, handle, data, NO_SIGNAL | DONT_WAIT) if data else 0
    except OSError as error:
        if operation._native is None and error.errno in NOT_FROM_KERNEL:
            operation._native = "copy"
            return PROGRESS
        raise sending_failed(handle, error) from None
    operation._transferred = done = done + count
    return DONE if count == 0 or done == whole else PROGRESS


# Files, on a thread of the pool, where blocking is fine


def read(handle: EngineHandle, operation: Operation) -> Outcome:
    operation = cast("Read", operation)
    while operation.transferred < operation._size:
        offset = operation._offset + operation.transferred
        left = remaining(operation._views, operation.transferred)[:VECTOR_MAX]
        if offset > OFFSET_MAX - operation._size:  # no file reaches so far, and the call would be refused
            left = [left[0][: OFFSET_MAX - offset]]
        count = os.preadv(handle.private_number(), left, offset)
        operation._transferred += count
        if count == 0:
            break
    return DONE


def write(handle: EngineHandle, operation: Operation) -> Outcome:
    operation = cast("Write", operation)
    while operation.transferred < operation._size:
        left = remaining(operation._views, operation.transferred)[:VECTOR_MAX]
        operation._transferred += os.pwritev(handle.private_number(), left, operation._offset + operation.transferred)
    return DONE


def flush(handle: EngineHandle, operation: Operation) -> Outcome:
    flush_file(handle.private_number())
    return DONE


ATTEMPTS: dict[str, Callable[[EngineHandle, Operation], Outcome]] = {
    "accept": accept,
    "connect": connect,
    "disconnect": disconnect,
    "flush": flush,
    "read": read,
    "recv": recv,
    "recv_from": recv_from,
    "send": send,
    "send_file": send_file,
    "send_to": send_to,
    "shutdown": shutdown,
    "write": write,
}


def attempt(handle: EngineHandle, operation: Operation) -> Outcome:
    """Attempt an operation of a direction once."""
    if handle.identity is not None:
        handle.checked_number()  # only a look tells whether the number is another file's by now
    return ATTEMPTS[operation.name](handle, operation)


JUDGEMENTS: dict[str, Callable[[EngineHandle, Operation, int], Outcome]] = {
    "recv": judge_recv,
    "recv_from": judge_recv,
    "send": judge_send,
    "send_to": judge_send,
}
"""The second halves of those attempts whose call is made elsewhere at times: what its result, or -errno, means."""


# Readiness


def found_ready(handle: EngineHandle, wanted: Readiness) -> Readiness:
    """Which of the wanted directions are ready now."""
    return readiness_of(_ready(handle.checked_number(), events_for(wanted))) & wanted


def events_for(wanted: Readiness) -> int:
    """What poll(2) is asked for."""
    return (select.POLLIN if wanted & Readiness.READABLE else 0) | (
        select.POLLOUT if wanted & Readiness.WRITABLE else 0
    )


def readiness_of(happened: int) -> Readiness:
    """What poll(2) has found. A hang-up and an error count as both directions: no call would block."""
    found = Readiness(0)
    ended = happened & (select.POLLHUP | select.POLLERR | select.POLLNVAL)
    if happened & select.POLLIN or ended:
        found |= Readiness.READABLE
    if happened & select.POLLOUT or ended:
        found |= Readiness.WRITABLE
    return found
