"""What the kernel's io_uring is asked for each operation, and what its result means.

It knows handles and operations, and the ring's type in C, whose methods it calls; queues, status and locks are its
caller's.

Starting one prepares an entry of the ring and nothing more. What the entry names is its *target*. That is found before,
as it may take the program's own code, and starting is done with the handle's lock held.

An operation that the ring has nothing for, or nothing better than one call that doesn't block, is attempted instead
(attempts), and attempted again when a poll says so:

- ``Shutdown``, ``Disconnect``: they never block.
- ``SendFile``: the ring has splice(2), which takes two of them through a pipe, and the kernel does each on a thread of
  its own; sendfile(2), once the socket takes more, is one call and no other thread.
- A send into a pipe, of which the kernel could not be asked before Linux 6.18 not to raise SIGPIPE where nobody reads.
- A receive of no bytes, which waits and consumes nothing: that is a poll, and a look at what the socket has to say.
- ``Connect`` to a local socket: it never takes long, but where the backlog is full no event tells when it is not.
- A datagram of more parts than one call takes, and addresses of families that are seldom met.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from unio.arguments import OFFSET_MAX
from unio.backends.common.accelerator import finds_numbers
from unio.backends.engine.attempts import (
    SEND_CHUNK,
    VECTOR_MAX,
    Outcome,
    connected,
    cut_off,
    events_for,
    failed,
    found_ready,
    is_connecting,
    not_accepted,
    receiving_failed,
    remaining,
    sending_failed,
    unblocked_socket,
)
from unio.backends.engine.handle import family_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio._core import Ring
    from unio.backends.engine.handle import EngineHandle
    from unio.operations import Accept, Connect, Operation, Poll, Read, Recv, RecvFrom, Send, SendTo, Write

    Target: TypeAlias = socket.socket | int
    Start: TypeAlias = Callable[[Ring, object, EngineHandle, Target, Operation], int]
    Finish: TypeAlias = Callable[[EngineHandle, Operation, int, Any], Outcome]

NOTHING = 0
"""What starting an operation returns that the ring has nothing for."""

POLLRDHUP = getattr(select, "POLLRDHUP", 0)  # Linux has it, and nothing else imports this

POSITION_NONE = -1  # the offset of what has no position: a pipe

INTERNET = (socket.AF_INET, socket.AF_INET6)
FAMILIES = (*INTERNET, socket.AF_UNIX)

AGAIN = (errno.ECANCELED, errno.EINTR)
"""What the kernel ends a request with that says nothing of the operation: it was revoked, or its thread has ended."""


class Request(NamedTuple):
    """A request, as the port knows it: what its result is given back with."""

    take_over: Callable[[Any, Any, Any, Result, Operation | None], bool]
    """Acts on the result: with the port, the two below, the result itself, and an operation that need not be queued.

    Returns whether that one has succeeded.
    """
    operation: Any
    whose: Any
    """The handle of the operation, or what a process is watched by; None for the pipe of the signals, as the operation.
    """


class Result(NamedTuple):
    """What came of a request."""

    name: int  # what the request is cancelled by
    number: int
    detail: Any


def target(handle: EngineHandle) -> Target:
    """What the requests on a handle name; the caller holds no lock. Raises OSError if that is closed.

    A socket object, where the ring sees what descriptor it has: it looks when it hands the request over, however long
    that may be from now. Otherwise a number, and then the caller has the ring submit what it prepares with it before it
    lets any other code run. (That of a file is the port's own, which nobody else closes.)
    """
    sock = handle.socket
    if finds_numbers and sock is not None and sock is handle.object:
        return sock
    return handle.checked_number() if handle.files is None else handle.private_number()


def start(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    """Prepare an operation's request and return what it is revoked by, or NOTHING if it is to be attempted instead.

    Its result comes back with *request*. Raises what an attempt may raise.
    """
    starter = STARTS.get(operation.name)
    return starter(ring, request, handle, target, operation) if starter is not None else NOTHING


def finish(handle: EngineHandle, operation: Operation, result: int, detail: Any) -> Outcome:
    """Take over a request's result into its operation. Returns and raises what an attempt does."""
    if result >= 0:
        return FINISHES[operation.name](handle, operation, result, detail)
    if -result in AGAIN or (operation.name == "connect" and -result == errno.EALREADY):
        return _again(operation, -result)
    error = failed(-result)
    if operation.name == "accept" and (judged := not_accepted(error)) is not None:
        return judged
    if operation.name in ("recv", "recv_from"):
        raise receiving_failed(operation, -result)
    raise sending_failed(handle, error) if operation.name in ("send", "send_to") else error


def _again(operation: Operation, number: int) -> Outcome:
    """Judge a request that has ended though its operation has not."""
    if operation.name == "connect":
        operation._native = "started"  # the socket goes on with it, and the next request is for the same connection
    # EALREADY: an event has led the kernel to another attempt, and was not that of the connection.
    return Outcome.BLOCKED if number == errno.EALREADY else Outcome.PROGRESS


# Receiving


def _start_recv(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    operation = cast("Recv", operation)
    if operation._size == 0:
        return NOTHING
    if handle.socket is None:
        return ring.read(request, target, operation._views, 0, POSITION_NONE)
    if not handle.stream:
        return _start_recv_from(ring, request, handle, target, operation)
    return ring.recv(request, target, operation._views, 0)


def _finish_recv(handle: EngineHandle, operation: Operation, result: int, detail: Any) -> Outcome:
    if isinstance(detail, tuple):
        return _finish_recv_from(handle, operation, result, detail)
    operation._transferred = result
    handle.ended = handle.ended or (handle.stream and result == 0)
    return Outcome.DONE


def _start_recv_from(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    operation = cast("RecvFrom", operation)
    sock = cast("socket.socket", handle.socket)
    if operation._size == 0 or len(operation._views) > VECTOR_MAX or family_of(sock) not in FAMILIES:
        return NOTHING
    return ring.recv_message(request, target, operation._views)


def _finish_recv_from(handle: EngineHandle, operation: Operation, result: int, detail: Any) -> Outcome:
    address, flags = detail
    operation._transferred = result
    if operation.name == "recv_from":
        cast("RecvFrom", operation).address = address
    if flags & socket.MSG_TRUNC:
        raise cut_off()
    return Outcome.DONE


def _start_accept(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    sock = cast("socket.socket", handle.socket)
    return ring.accept(request, target) if family_of(sock) in FAMILIES else NOTHING


def _finish_accept(handle: EngineHandle, operation: Operation, result: int, detail: Any) -> Outcome:
    operation = cast("Accept", operation)
    operation.socket = unblocked_socket(cast("socket.socket", handle.socket), result)
    operation.address = detail
    return Outcome.DONE


# Sending


def _start_send(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    operation = cast("Send", operation)
    if handle.socket is None:
        return NOTHING
    if handle.stream:
        return ring.send(request, target, operation._views, operation.transferred, SEND_CHUNK)
    if len(operation._views) > VECTOR_MAX:
        return NOTHING
    return ring.send_message(request, target, operation._views, 0, None)


def _start_send_to(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    operation, sock = cast("SendTo", operation), cast("socket.socket", handle.socket)
    if handle.stream or len(operation._views) > VECTOR_MAX or family_of(sock) not in FAMILIES:
        return NOTHING
    return ring.send_message(request, target, operation._views, family_of(sock), operation._address)


def _finish_send(handle: EngineHandle, operation: Operation, result: int, detail: Any) -> Outcome:
    operation = cast("Send", operation)
    done = operation._transferred
    operation._transferred = done + result
    if operation.transferred == operation._size or not handle.stream:
        return Outcome.DONE
    # Where a socket took less than it was given, there is no room for more.
    less = result < min(operation._size - done, SEND_CHUNK)
    return Outcome.BLOCKED if handle.socket is not None and less else Outcome.PROGRESS


def _start_connect(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    operation, sock = cast("Connect", operation), cast("socket.socket", handle.socket)
    if family_of(sock) not in INTERNET:
        return NOTHING
    if operation._native is None and is_connecting(sock):  # by another connect: it may be to another address
        raise failed(errno.EALREADY)
    return ring.connect(request, target, family_of(sock), operation._address)


def _finish_connect(handle: EngineHandle, operation: Operation, result: int, detail: Any) -> Outcome:
    return connected(cast("socket.socket", handle.socket))


# Readiness


def _start_poll(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    return poll(ring, request, handle, target, events_for(cast("Poll", operation).readiness))


def poll(ring: Ring, request: object, handle: EngineHandle, target: Target, events: int) -> int:
    """Prepare a poll of a handle; its result may say that it goes on, if that is not what was waited for.

    Asked for or not, the kernel reports that the peer will send no more, and that the socket keeps errors for who asks
    for them, each time and at once; that would be no wait for room to send, or for data. One that goes on reports each
    thing once. (Where a request to send waits by itself, the kernel takes that report for room, tries 128 times, and
    then keeps a thread for it. So those don't wait.)
    """
    return ring.poll(request, target, events, handle.ended)


def _finish_poll(handle: EngineHandle, operation: Operation, result: int, detail: Any) -> Outcome:
    operation = cast("Poll", operation)
    # What the poll has found may be gone: a receive that was waiting as well has taken it.
    operation.found = found_ready(handle, operation.readiness)
    return Outcome.DONE if operation.found else Outcome.PROGRESS


# Files


def _start_read(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    operation = cast("Read", operation)
    views, done = operation._views, operation.transferred
    offset = operation._offset + done
    if offset > OFFSET_MAX - operation._size:  # no file reaches so far, and the call would be refused
        views, done = (remaining(views, done)[0][: OFFSET_MAX - offset],), 0
    return ring.read(request, target, views, done, offset)


def _finish_read(handle: EngineHandle, operation: Operation, result: int, detail: Any) -> Outcome:
    operation = cast("Read", operation)
    operation._transferred += result
    return Outcome.PROGRESS if result > 0 and operation.transferred < operation._size else Outcome.DONE


def _start_write(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    operation = cast("Write", operation)
    done = operation.transferred
    return ring.write(request, target, operation._views, done, operation._offset + done)


def _start_flush(ring: Ring, request: object, handle: EngineHandle, target: Target, operation: Operation) -> int:
    return ring.sync(request, target)


def _finish_flush(handle: EngineHandle, operation: Operation, result: int, detail: Any) -> Outcome:
    return Outcome.DONE


STARTS: dict[str, Start] = {
    "accept": _start_accept,
    "connect": _start_connect,
    "flush": _start_flush,
    "poll": _start_poll,
    "read": _start_read,
    "recv": _start_recv,
    "recv_from": _start_recv_from,
    "send": _start_send,
    "send_to": _start_send_to,
    "write": _start_write,
}

FINISHES: dict[str, Finish] = {
    "accept": _finish_accept,
    "connect": _finish_connect,
    "flush": _finish_flush,
    "poll": _finish_poll,
    "read": _finish_read,
    "recv": _finish_recv,
    "recv_from": _finish_recv,
    "send": _finish_send,
    "send_to": _finish_send,
    "write": _finish_send,
}
