"""The clauses A, for sockets that are fit for overlapped work already, and for handles on which nothing is in flight.

Accepted sockets are of this kind, and servers have many: a backend may have a shorter way for them to join and leave.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
from typing import Any

import pytest
from descriptors import no_more_descriptors_than, open_descriptors
from support import (
    assert_cancelled,
    assert_idle,
    assert_nothing_comes,
    completion,
    in_threads,
    recv_exactly,
    recv_to_end,
    reuse,
    run,
    succeed,
)

import unio

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX's")


@pytest.fixture
def fit_pair(make_pair: Any) -> Any:
    """Makes pairs as ``make_pair`` does, of which the near end doesn't block."""

    def make(*, local: bool = False) -> tuple[socket.socket, socket.socket]:
        near, far = make_pair(local=local)
        near.setblocking(False)
        return near, far

    return make


def echoes(port: unio.Port, handle: unio.Handle, far: socket.socket) -> bool:
    recv = unio.Recv(handle)
    port.submit(recv)
    far.sendall(b"ping")
    assert completion(port) == (handle.key, recv, 4, None)
    assert succeed(port, unio.Send(handle, recv.data)).key is handle.key
    return recv_exactly(far, 4) == b"ping"


@pytest.mark.clause("A1", "P9")
def test_its_handle_is_what_any_handle_is(port: unio.Port, fit_pair: Any, make_pair: Any) -> None:
    key = object()
    for local in (False, True, False):
        (fit, far), (other, _) = fit_pair(local=local), make_pair(local=local)
        handle, usual = port.associate(fit, key=key), port.associate(other, key)
        names = ("key", "kind", "skip_on_success", "stream", "closed")
        assert [getattr(handle, name) for name in names] == [getattr(usual, name) for name in names]
        assert (handle.object, handle.socket, handle.fileno()) == (fit, fit, fit.fileno())
        assert handle.key is key
        assert echoes(port, handle, far)


@pytest.mark.clause("A1")
def test_each_has_operations_of_its_own(port: unio.Port, fit_pair: Any) -> None:
    pairs = [fit_pair() for _ in range(3)]
    handles = [port.associate(near, number) for number, (near, _) in enumerate(pairs)]
    for handle in handles:
        port.submit(unio.Recv(handle))
    assert handles[0].cancel() == 1
    assert_cancelled(completion(port))
    handles[1].close()
    assert_cancelled(completion(port))
    pairs[2][1].sendall(b"x")
    assert completion(port).key == 2
    assert_idle(port)


@pytest.mark.clause("A1")
def test_it_joins_once_whatever_it_is_named_by(make_port: Any, fit_pair: Any) -> None:
    port, other = make_port(), make_port()
    near, far = fit_pair()
    handle = port.associate(near, "first")
    for each in (port, other):
        for given in (near, near.fileno()):
            with pytest.raises(unio.AssociationError):
                each.associate(given)
    assert echoes(port, handle, far)
    port.close()
    with pytest.raises(unio.AssociationError):
        other.associate(near)


@pytest.mark.clause("A1")
def test_of_many_at_once_one_wins(make_port: Any, fit_pair: Any) -> None:
    ports = [make_port() for _ in range(4)]

    def associate(number: int) -> unio.Handle | None:
        given = near if number < 6 else near.fileno()  # a number takes the longer way
        try:
            return ports[number % 4].associate(given, number)
        except unio.AssociationError:
            return None

    for _ in range(50):
        near, _far = fit_pair(local=True)
        [handle] = [each for each in in_threads(8, associate) if each is not None]
        assert succeed(ports[handle.key % 4], unio.Send(handle, b"x")).key == handle.key
        if handle.object is not near:
            near.detach()  # its number is the handle's to close
        handle.close()


@pytest.mark.clause("A1", "P11")
def test_it_joins_no_other_port_where_the_first_was_dropped_in_a_cycle(make_port: Any, fit_pair: Any) -> None:
    near, _far = fit_pair()
    port = make_port()
    dropped = unio.Port(backend=port.backend)
    dropped.associate(near, key=dropped)
    del dropped
    gc.collect()
    with pytest.raises(unio.AssociationError):
        port.associate(near)


@pytest.mark.clause("A1", "A2", "P7")
def test_it_is_refused_like_any_other(make_port: Any, fit_pair: Any) -> None:
    port, other = make_port(), make_port()
    near, _far = fit_pair()
    wrong: Any = {"a key": 1}
    with pytest.raises(TypeError):
        port.associate(near, **wrong)
    with pytest.raises(TypeError):
        port.associate(near, "key", "more")  # type: ignore[call-arg]
    port.close()
    with pytest.raises(unio.PortClosed):
        port.associate(near)
    assert other.associate(near).fileno() == near.fileno()
    near.close()
    with pytest.raises(unio.AssociationError):
        other.associate(near)


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("A3", "A4")
def test_its_number_can_join_again_after_an_idle_close_also_of_a_duplicate(
    port: unio.Port, fit_pair: Any, resources: contextlib.ExitStack
) -> None:
    for _ in range(3):
        near, far = fit_pair()
        number = near.fileno()
        handle = port.associate(near, "old")
        assert echoes(port, handle, far)
        duplicate = resources.enter_context(near.dup())
        handle.close()
        assert (near.fileno(), handle.fileno(), handle.closed) == (-1, -1, True)
        new_near, new_far = reuse(number, resources)
        new_near.setblocking(False)
        new = port.associate(new_near, "new")
        port.submit(unio.Recv(new))
        far.sendall(b"for the duplicate")
        assert_nothing_comes(port)
        new_far.sendall(b"x")
        assert completion(port).key == "new"
        duplicate.close()
        new.close()


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("A4")
def test_closing_it_idle_closes_the_socket_and_no_file_made_of_it(port: unio.Port, fit_pair: Any) -> None:
    before = open_descriptors()
    near, far = fit_pair(local=True)
    file = near.makefile("rb", buffering=0)
    handle = port.associate(near)
    handle.close()
    handle.close()
    assert_cancelled(run(port, unio.Recv(handle)))
    far.sendall(b"x")
    assert file.read(1) == b"x"
    file.close()
    assert recv_to_end(far) == b""
    far.close()
    assert_idle(port)
    no_more_descriptors_than(before)


@pytest.mark.clause("S9", "X3")
def test_what_was_submitted_on_others_starts_before_an_idle_close(port: unio.Port, fit_pair: Any) -> None:
    near, far = fit_pair(local=True)
    far.setblocking(False)
    first, second = port.associate(near, "first"), port.associate(far, "second")
    assert port.wait(0) == []
    port.submit(unio.Send(first, b"before the end"))
    duplicate = far.dup()
    second.close()
    assert completion(port).error is None
    with duplicate:
        assert recv_exactly(duplicate, 14) == b"before the end"


@pytest.mark.clause("P7")
def test_a_port_that_was_closed_leaves_the_socket_to_its_handle(make_port: Any, fit_pair: Any) -> None:
    port = make_port()
    near, far = fit_pair()
    handle = port.associate(near)
    port.close()
    assert near.fileno() >= 0
    handle.close()
    assert recv_to_end(far) == b""
