"""Polls of a thread that waits on the port: again and again, several of one handle, and ended in the middle."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter

import channels
import pytest
import support
from platforms import needs_counted_bytes
from wine import wine_row

import unio

READABLE, WRITABLE = unio.Readiness.READABLE, unio.Readiness.WRITABLE
BOTH = READABLE | WRITABLE


class Pair:
    """A socket that has joined a port whose thread waits, and its peer."""

    def __init__(self, port: unio.Port, resources: contextlib.ExitStack, transport: str) -> None:
        self.near, self.far = channels.incoming(resources, transport)
        self.handle = port.associate(self.near, "key")
        # The first poll of a handle, and the first wait of a thread, are another way.
        poll = unio.Poll(self.handle, READABLE)
        support.assert_idle(port)
        port.submit(poll)
        assert port.cancel(poll)
        support.assert_cancelled(support.completion(port))

    def take(self) -> bytes:
        assert isinstance(self.near, socket.socket)
        return self.near.recv(100)


@pytest.mark.clause("O14", "S6")
@channels.every_socket
def test_polls_that_are_submitted_again_tell_each_time_and_no_more(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    pairs = [Pair(port, resources, transport) for _ in range(5)]
    polls = [unio.Poll(pair.handle, READABLE) for pair in pairs]
    for poll in polls:
        port.submit(poll)
    support.assert_idle(port)
    for number in range(20):
        for pair in pairs[: number % 5 + 1]:
            pair.far.send(b"%d" % number)
        found = support.completions(port, number % 5 + 1)
        assert sorted(map(id, polls[: number % 5 + 1])) == sorted(id(each.operation) for each in found)
        assert {(each.key, each.transferred, each.error, each.operation.found) for each in found} == {
            ("key", 0, None, READABLE)
        }
        for poll in polls[: number % 5 + 1]:  # there is still something
            assert support.run(port, poll).error is None
        assert [pair.take() for pair in pairs[: number % 5 + 1]] == [b"%d" % number] * (number % 5 + 1)
        for poll in polls[: number % 5 + 1]:
            port.submit(poll)
        support.assert_idle(port)


@pytest.mark.clause("O14", "S5")
@channels.every_socket
def test_polls_that_nobody_keeps_come_back_with_what_they_were_given(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    pairs = [Pair(port, resources, transport) for _ in range(8)]
    for pair in pairs:
        for readiness in (READABLE, BOTH):
            port.submit(unio.Poll(pair.handle, readiness, state=[pair]))
    assert {id(each.operation.state[0]) for each in support.completions(port, 8)} == set(map(id, pairs))
    for _ in range(3):
        for pair in pairs:
            pair.far.send(b"data")
        for each in support.completions(port, 8):
            assert each.operation.state[0].take() == b"data"
            port.submit(unio.Poll(each.operation.handle, READABLE, state=each.operation.state))


@pytest.mark.clause("O14", "X1", "S8")
@channels.every_socket
def test_each_of_several_polls_of_a_handle_ends_by_itself(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    pair = Pair(port, resources, transport)
    polls = [unio.Poll(pair.handle, READABLE, state=number) for number in range(4)]
    for poll in polls[:3]:
        port.submit(poll)
    port.submit(polls[3], 0)
    assert isinstance(support.completion(port).error, TimeoutError)
    writable = unio.Poll(pair.handle, WRITABLE)
    assert support.run(port, writable) == ("key", writable, 0, None)
    assert writable.found == WRITABLE
    both = unio.Poll(pair.handle, BOTH)
    assert support.run(port, both).error is None
    assert both.found == WRITABLE
    assert port.cancel(polls[1])
    support.assert_cancelled(support.completion(port))
    assert not port.cancel(polls[1])
    support.assert_idle(port)
    pair.far.send(b"data")
    assert {each.operation.state for each in support.completions(port, 2)} == {0, 2}
    port.submit(both)
    assert support.completion(port).operation is both
    assert both.found == BOTH
    assert pair.take() == b"data"


@pytest.mark.clause("O14", "X3", "P7")
@pytest.mark.parametrize("how", ["handle", "plain", "cancel", "port"])
@channels.every_socket
def test_polls_that_wait_end_with_their_handle_and_their_port(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, how: str
) -> None:
    pair = Pair(port, resources, transport)
    polls = [unio.Poll(pair.handle, READABLE) for _ in range(3)]
    for poll in polls:
        port.submit(poll)
    support.assert_idle(port)
    if how == "port":
        port.close()
        assert not any(poll.in_flight for poll in polls)
        return
    if how == "cancel":
        assert pair.handle.cancel() == 3
    else:
        (pair.handle if how == "handle" else pair.near).close()
    found = support.completions(port, 3)
    assert Counter(id(each.operation) for each in found) == Counter(map(id, polls))
    for each in found:
        support.assert_cancelled(each)
    if how == "cancel":
        pair.far.send(b"later")
        assert support.run(port, polls[0]).error is None
        assert pair.take() == b"later"


@pytest.mark.clause("O14", "O3")
@channels.every_socket
def test_a_poll_whose_data_a_receive_has_taken_waits_for_more_or_tells_what_was_there(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    pair = Pair(port, resources, transport)
    poll, recv = unio.Poll(pair.handle, READABLE), unio.Recv(pair.handle, bytearray(10))
    port.submit(poll)
    port.submit(recv)
    support.assert_idle(port)
    pair.far.send(b"data")
    found = {each.operation for each in support.completions(port, 1)}
    while recv not in found:
        found |= {each.operation for each in support.completions(port, 1)}
    assert recv.buffer[:4] == b"data"
    if poll not in found:
        pair.far.send(b"more")
        while poll not in found:
            found |= {each.operation for each in support.completions(port, 1)}
    assert poll.found == READABLE


@pytest.mark.clause("O14")
@needs_counted_bytes
@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_a_poll_for_room_waits_beside_the_end_of_the_peers_side(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = (support.tcp_pair if transport == "tcp" else support.local_pair)()
    resources.enter_context(near)
    resources.enter_context(far)
    handle = port.associate(near)
    support.assert_idle(port)
    filled = support.fill(near)
    far.shutdown(socket.SHUT_WR)
    polls = [unio.Poll(handle, readiness) for readiness in (WRITABLE, WRITABLE, READABLE)]
    for poll in polls:
        port.submit(poll)
    assert support.completion(port).operation is polls[2]
    support.assert_nothing_comes(port)
    support.recv_exactly(far, filled)
    found = support.completions(port, 2)
    assert {each.operation for each in found} == set(polls[:2])
    assert [each.operation.found for each in found] == [WRITABLE] * 2


@pytest.mark.clause("O14", "L2")
@pytest.mark.parametrize("peer", ["is there", "sends no more"])
@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_polls_that_wait_let_the_port_sleep(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, peer: str
) -> None:
    near, far = (support.tcp_pair if transport == "tcp" else support.local_pair)()
    resources.enter_context(near)
    resources.enter_context(far)
    handle = port.associate(near)
    support.assert_idle(port)
    support.fill(near)
    if peer == "sends no more":
        far.shutdown(socket.SHUT_WR)
    polls = [unio.Poll(handle, WRITABLE) for _ in range(3)]
    for poll in polls:
        port.submit(poll)
    channels.assert_sleeps(port)


@wine_row("leave-port")
@pytest.mark.clause("O14", "A5", "S5")
def test_a_poll_in_flight_keeps_its_handle_and_its_readiness(port: unio.Port, resources: contextlib.ExitStack) -> None:
    pair = Pair(port, resources, "tcp")
    poll = unio.Poll(pair.handle, READABLE)
    assert poll.found == unio.Readiness(0)
    port.submit(poll)
    support.assert_idle(port)
    with pytest.raises(unio.InFlight):
        poll.readiness = WRITABLE
    with pytest.raises(unio.InFlight):
        pair.handle.detach()
    assert port.cancel(poll)
    support.assert_cancelled(support.completion(port))
    poll.readiness = WRITABLE
    assert support.run(port, poll).error is None
    assert poll.found is WRITABLE
    assert type(poll.found) is unio.Readiness
    assert pair.handle.detach() is pair.near
    support.assert_cancelled(support.run(port, poll))


@pytest.mark.clause("O14", "P2", "S1")
@pytest.mark.parametrize("waits", [True, False], ids=["that wait", "that do not"])
@channels.every_socket
def test_polls_of_threads_that_submit_and_cancel_at_once_end_once_each(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, waits: bool
) -> None:
    pair = Pair(port, resources, transport)
    polls = [[unio.Poll(pair.handle, READABLE if number % 2 else BOTH) for number in range(100)] for _ in range(3)]

    def submit(mine: list[unio.Poll]) -> list[unio.Completion]:
        found = port.wait(0) if waits else []
        for number, poll in enumerate(mine):
            port.submit(poll)
            if number % 3 == 0:
                port.cancel(poll)
            found += port.wait(0) if waits else []
        return found

    background = [support.Background(submit, mine) for mine in polls]
    found: list[unio.Completion] = []
    while any(each.is_alive() for each in background):
        found += port.wait(0)
    for each in background:
        found += each.result()
    pair.far.send(b"data")
    while len(found) < 300:
        found += support.batch(port)
    assert Counter(id(each.operation) for each in found) == Counter(id(poll) for mine in polls for poll in mine)
    assert port.wait(0) == []
    assert not any(poll.in_flight for mine in polls for poll in mine)
