"""Half-closing and disconnecting byte streams."""

from __future__ import annotations

import contextlib
import errno
from typing import Any

import channels
import pytest
import support

import unio

# Ending


@pytest.mark.clause("O10")
@channels.every_socket
def test_a_half_close_ends_the_stream_after_the_sends_before_it(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    data = channels.pattern(4 * support.MIB)
    operations = [unio.Send(handle, data), unio.Send(handle, b"end"), unio.Shutdown(handle)]
    for operation in operations:
        port.submit(operation)
    support.assert_idle(port)
    drained = channels.drain(port, far, 3)
    assert [completion.operation for completion in drained.completions] == operations
    assert [completion.transferred for completion in drained.completions] == [len(data), 3, 0]
    assert {completion.error for completion in drained.completions} == {None}
    assert bytes(drained.data) + far.recv_to_end() == data + b"end"


@pytest.mark.clause("O10", "O3")
@channels.every_socket
def test_receiving_goes_on_after_a_half_close(port: unio.Port, resources: contextlib.ExitStack, transport: str) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(20))
    port.submit(recv)
    shutdown = unio.Shutdown(handle)
    assert support.run(port, shutdown) == (None, shutdown, 0, None)
    assert far.recv() == b""
    support.assert_idle(port)
    far.send(b"still here")
    assert support.completion(port) == (None, recv, 10, None)
    far.close()
    assert support.run(port, recv) == (None, recv, 0, None)


@pytest.mark.clause("O10", "O4")
@channels.every_socket
def test_a_send_after_a_half_close_is_a_broken_pipe(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    shutdown, send = unio.Shutdown(handle), unio.Send(handle, b"too late")
    port.submit(shutdown)
    port.submit(send)
    found = support.completions(port, 2)
    assert [completion.operation for completion in found] == [shutdown, send]
    assert type(found[1].error) is BrokenPipeError
    assert found[1].transferred == 0
    assert far.recv() == b""


@pytest.mark.clause("O10")
@channels.every_socket
def test_a_disconnect_ends_both_directions_after_the_sends_before_it(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    data = channels.pattern(4 * support.MIB)
    operations = [unio.Send(handle, data), unio.Disconnect(handle)]
    for operation in operations:
        port.submit(operation)
    support.assert_idle(port)
    drained = channels.drain(port, far, 2)
    assert [completion.operation for completion in drained.completions] == operations
    assert {completion.error for completion in drained.completions} == {None}
    assert bytes(drained.data) + far.recv_to_end() == data
    assert support.run(port, unio.Recv(handle, bytearray(10))).transferred == 0
    assert type(support.run(port, unio.Send(handle, b"too late")).error) is BrokenPipeError
    assert not handle.closed
    handle.close()


@pytest.mark.clause("O10", "S1")
@channels.every_socket
def test_a_disconnect_completes_a_pending_receive(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv, disconnect = unio.Recv(handle, bytearray(10)), unio.Disconnect(handle)
    port.submit(recv)
    support.assert_idle(port)
    port.submit(disconnect)
    found = {completion.operation: completion for completion in support.completions(port, 2)}
    assert found[disconnect].error is None
    assert found[recv].transferred == 0
    assert far.recv() == b""


@pytest.mark.clause("O10", "X1")
def test_a_disconnect_that_is_cancelled_beside_one_that_is_done_leaves_the_stream_ended(
    port: unio.Port, make_pair: Any
) -> None:
    near, _far = make_pair()
    handle = port.associate(near)
    operations = [unio.Disconnect(handle) for _ in range(3)]
    for operation in operations:
        port.submit(operation)
    port.cancel(operations[1])
    found = {each.operation: each for each in support.completions(port, 3)}
    assert found[operations[0]].error is None
    assert support.succeed(port, unio.Recv(handle, bytearray(10))).transferred == 0


@pytest.mark.clause("O10", "C2")
@pytest.mark.parametrize("make", [unio.Shutdown, unio.Disconnect])
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])  # Linux lets a local socket be shut down at any time
def test_ending_what_is_not_connected_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, make: Any
) -> None:
    completion = support.run(port, make(port.associate(channels.client(resources, transport))))
    assert completion.error.errno == errno.ENOTCONN


@pytest.mark.clause("O10", "O4")
def test_a_peer_that_resets_before_a_half_close_fails_the_sends_and_not_the_wait(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    handle = port.associate(near)
    operations = [unio.Send(handle, bytes(8 * support.MIB)), unio.Shutdown(handle), unio.Disconnect(handle)]
    for operation in operations:
        port.submit(operation)
    channels.read(port, far, 1)
    far.reset()
    found = support.completions(port, 3)
    assert [completion.operation for completion in found] == operations
    assert type(found[0].error) is ConnectionResetError
    assert all(completion.error is None or isinstance(completion.error, OSError) for completion in found[1:])
    support.assert_idle(port)
