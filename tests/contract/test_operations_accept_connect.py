"""Accepting and connecting."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS, needs_af_unix, needs_rlimit
from wine import wine_row

import unio

# Accept


@pytest.mark.clause("O1", "C1")
@channels.every_socket
def test_an_accept_carries_the_key_of_the_listener_and_no_bytes(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    key = object()
    accept = unio.Accept(port.associate(listening, key))
    channels.client(resources, transport).connect(listening.getsockname())
    completion = support.run(port, accept)
    assert completion.key is key
    assert completion.transferred == 0
    assert completion.error is None
    resources.enter_context(accept.socket)


@pytest.mark.clause("O1")
def test_take_gives_the_accepted_socket_away_once(port: unio.Port, make_listener: Any) -> None:
    listening = make_listener()
    accept = unio.Accept(port.associate(listening))
    with pytest.raises(RuntimeError, match="no socket to give"):
        accept.take()
    with socket.create_connection(listening.getsockname(), support.PATIENCE) as client:
        support.succeed(port, accept)
        taken = accept.socket
        with accept.take() as accepted:
            assert accepted is taken
            assert accept.socket is None
            with pytest.raises(RuntimeError, match="or it was taken"):
                accept.take()
            client.sendall(b"x")
            assert accepted.getpeername() == client.getsockname()


@pytest.mark.clause("O1", "C3")
@channels.every_socket
def test_the_accepted_socket_and_the_address_of_its_peer_are_on_the_operation(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    accept = unio.Accept(port.associate(listening))
    client = channels.client(resources, transport)
    client.connect(listening.getsockname())
    support.succeed(port, accept)
    accepted = resources.enter_context(accept.socket)
    assert type(accepted) is socket.socket
    assert accept.address == client.getsockname()
    assert accepted.getsockname() == listening.getsockname()
    assert (accepted.family, accepted.type, accepted.proto) == (listening.family, listening.type, listening.proto)


@pytest.mark.clause("O1")
@channels.every_socket
def test_the_accepted_socket_does_not_block_and_is_not_inheritable(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    accept = unio.Accept(port.associate(listening))
    channels.client(resources, transport).connect(listening.getsockname())
    support.succeed(port, accept)
    accepted = resources.enter_context(accept.socket)
    assert not accepted.getblocking()
    assert WINDOWS or not os.get_blocking(accepted.fileno())
    with pytest.raises(BlockingIOError):
        accepted.recv(1)
    assert not accepted.get_inheritable()


@pytest.mark.clause("O1")
@pytest.mark.parametrize("default", [None, 5.0])
def test_the_accepted_socket_does_not_block_whatever_the_default_of_sockets_is(
    port: unio.Port, resources: contextlib.ExitStack, default: Any
) -> None:
    listening = channels.listener(resources, "tcp")
    accept = unio.Accept(port.associate(listening))
    channels.client(resources, "tcp").connect(listening.getsockname())
    resources.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
    socket.setdefaulttimeout(default)
    support.succeed(port, accept)
    assert not resources.enter_context(accept.socket).getblocking()


@pytest.mark.clause("O1", "A1")
@channels.every_socket
def test_the_accepted_socket_has_not_joined_a_port_and_can_join_any(
    port: unio.Port, make_port: Any, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    accept = unio.Accept(port.associate(listening))
    for home in (port, make_port()):
        client = channels.client(resources, transport)
        client.connect(listening.getsockname())
        support.succeed(port, accept)
        handle = home.associate(resources.enter_context(accept.socket), "accepted")
        client.sendall(b"hello")
        assert channels.receive_exactly(home, handle, 5) == b"hello"
        support.succeed(home, unio.Send(handle, b"world"))
        assert client.recv(5) == b"world"


@pytest.mark.clause("O1")
def test_an_accept_waits_for_a_connection(port: unio.Port, resources: contextlib.ExitStack) -> None:
    listening = channels.listener(resources, "tcp")
    accept = unio.Accept(port.associate(listening))
    port.submit(accept)
    support.assert_idle(port)
    assert accept.in_flight
    resources.enter_context(support.connect(listening))
    assert support.completion(port).operation is accept
    resources.enter_context(accept.socket)


@pytest.mark.clause("O1", "S1")
@channels.every_socket
def test_several_accepts_take_one_connection_each_in_their_order(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    handle = port.associate(listening)
    accepts = [unio.Accept(handle) for _ in range(20)]
    for accept in accepts:
        port.submit(accept)
    clients = [channels.client(resources, transport) for _ in accepts]
    for number, client in enumerate(clients):
        client.connect(listening.getsockname())
        client.sendall(bytes([number]))
    found = [completion.operation for completion in support.completions(port, len(accepts))]
    assert found == accepts
    for number, accept in enumerate(accepts):
        accepted = resources.enter_context(accept.socket)
        accepted.settimeout(support.PATIENCE)
        assert accepted.recv(10) == bytes([number])
    support.assert_idle(port)


@pytest.mark.clause("O1", "S6")
def test_an_accept_is_submitted_again_for_the_next_connection(port: unio.Port, resources: contextlib.ExitStack) -> None:
    listening = channels.listener(resources, "tcp")
    accept = unio.Accept(port.associate(listening))
    seen = set()
    for _ in range(50):
        client = resources.enter_context(support.connect(listening))
        support.succeed(port, accept)
        resources.enter_context(accept.socket)
        assert accept.address == client.getsockname()
        seen.add(accept.socket)
    assert len(seen) == 50


@pytest.mark.clause("O1")
def test_connections_that_came_before_the_listener_joined_are_accepted(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening = channels.listener(resources, "tcp")
    clients = [resources.enter_context(support.connect(listening)) for _ in range(5)]
    handle = port.associate(listening)
    accepts = [unio.Accept(handle) for _ in clients]
    for accept in accepts:
        port.submit(accept)
    support.completions(port, len(accepts))
    for accept in accepts:
        resources.enter_context(accept.socket)
    assert [accept.address for accept in accepts] == [client.getsockname() for client in clients]


@pytest.mark.clause("O1", "O3")
@pytest.mark.parametrize("submitted", ["before", "after"])
@channels.every_socket
def test_a_peer_that_has_closed_already_is_still_accepted_and_its_data_is_there(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, submitted: Any
) -> None:
    listening = channels.listener(resources, transport)
    accept = unio.Accept(port.associate(listening))
    if submitted == "before":
        port.submit(accept)
    client = channels.client(resources, transport)
    client.connect(listening.getsockname())
    client.sendall(b"bye")
    client.close()
    if submitted == "after":
        port.submit(accept)
    assert support.completion(port).error is None
    handle = port.associate(resources.enter_context(accept.socket))
    assert channels.receive_all(port, handle) == b"bye"


@pytest.mark.clause("O1")
@pytest.mark.parametrize("submitted", ["before", "after"])
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])
def test_a_peer_that_has_reset_already_never_ends_the_listener(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, submitted: Any
) -> None:
    listening = channels.listener(resources, transport)
    accept = unio.Accept(port.associate(listening))
    for _ in range(5):
        if submitted == "before":
            port.submit(accept)
        gone = channels.client(resources, transport)
        gone.connect(listening.getsockname())
        address = gone.getsockname()
        support.reset(gone)
        if submitted == "after":
            port.submit(accept)
        client = channels.client(resources, transport)
        client.connect(listening.getsockname())
        assert support.completion(port).error is None
        if accept.address == address:  # it may be accepted, or passed over
            handle = port.associate(resources.enter_context(accept.socket))
            error = support.run(port, unio.Recv(handle, bytearray(10))).error
            assert WINDOWS or isinstance(error, ConnectionResetError)  # AcceptEx may have taken notice of it already
            support.succeed(port, accept)
        assert accept.address == client.getsockname()
        assert resources.enter_context(accept.socket).getpeername() == client.getsockname()


@pytest.mark.clause("O1", "C2")
@wine_row("accept-misuse")
def test_accepting_on_a_socket_that_does_not_listen_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack, patience: float
) -> None:
    handle = port.associate(channels.client(resources, "tcp"))
    completion = support.run(port, unio.Accept(handle), patience)
    assert completion.error.errno == errno.EINVAL
    assert "does not listen" in str(completion.error)
    assert completion.operation.socket is None


@pytest.mark.clause("O1", "C2", "S1")
def test_accepting_on_a_socket_that_can_not_accept_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    sock = resources.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    completion = support.run(port, unio.Accept(port.associate(sock)))
    assert completion.error.errno == errno.EOPNOTSUPP


DESCRIPTORS = """
import errno, json, os, resource, socket, sys
import unio

outstanding = int(sys.argv[2])
port = unio.Port(backend=sys.argv[1])
listening = socket.create_server(("127.0.0.1", 0))
handle = port.associate(listening, "listener")
near, far = socket.socketpair()
other = port.associate(near, "other")
clients = [socket.create_connection(listening.getsockname()) for _ in range(8)]
port.submit(unio.Recv(other, bytearray(1)))

resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
hoard = []
try:
    while True:
        hoard.append(os.open(os.devnull, os.O_RDONLY))
except OSError as error:
    assert error.errno == errno.EMFILE, error

# A naive server: it submits an operation again as soon as it has completed, whatever the result.
for _ in range(outstanding):
    port.submit(unio.Accept(handle))
port.submit(unio.Timer(0.5, "pause"))
far.send(b"x")
refused, echoed, paused = 0, 0, False
while not paused:
    for key, operation, transferred, error in port.wait(60):
        if key == "pause":
            paused = True
        elif key == "listener":
            assert error is not None and error.errno == errno.EMFILE, error
            assert operation.socket is None
            refused += 1
            port.submit(operation)
        elif echoed < 100:  # another handle goes on meanwhile
            assert transferred == 1 and error is None
            echoed += 1
            far.send(b"x")
            port.submit(operation)

for number in hoard:
    os.close(number)
accepted = []
while len(accepted) < len(clients):
    batch = port.wait(60)
    assert batch, "the listener did not recover"
    for key, operation, transferred, error in batch:
        if key == "listener":
            if error is None:
                accepted.append(operation.socket)
                assert operation.socket.getpeername() == operation.address
            else:
                assert error.errno == errno.EMFILE, error
                refused += 1
            port.submit(operation)
peers = sorted(sock.getpeername() for sock in accepted)
print(json.dumps([refused, echoed, peers == sorted(client.getsockname() for client in clients)]))
port.close()
for sock in (listening, near, far, *clients, *accepted):
    sock.close()
"""


@pytest.mark.clause("O1", "L1")
@needs_rlimit
@pytest.mark.parametrize("outstanding", [1, 4])
def test_a_listener_without_descriptors_survives_does_not_spin_and_recovers(backend: str, outstanding: Any) -> None:
    result = channels.run_script(DESCRIPTORS, backend, str(outstanding))
    refused, others, complete = json.loads(result)
    # It was told of the shortage, and not more often than once in ten milliseconds or so for each accept.
    assert 1 <= refused < 60 * outstanding
    assert others == 100
    assert complete


# Connect


@pytest.mark.clause("O2")
@channels.every_socket
def test_connected_means_that_the_name_of_the_peer_is_known(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    client = channels.client(resources, transport)
    completion = support.run(port, unio.Connect(port.associate(client, "client"), listening.getsockname()))
    assert completion.error is None
    assert completion.key == "client"
    assert completion.transferred == 0
    assert client.getpeername() == listening.getsockname()
    accepted, address = listening.accept()
    resources.enter_context(accepted)
    assert address == client.getsockname()


@pytest.mark.clause("O2", "O3", "O4")
@channels.every_socket
def test_a_connected_socket_sends_and_receives(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    handle = port.associate(channels.client(resources, transport))
    support.succeed(port, unio.Connect(handle, listening.getsockname()))
    accepted = resources.enter_context(listening.accept()[0])
    support.succeed(port, unio.Send(handle, b"question"))
    assert accepted.recv(100) == b"question"
    accepted.sendall(b"answer")
    assert channels.receive_exactly(port, handle, 6) == b"answer"


@pytest.mark.clause("O2")
def test_a_bound_socket_connects_from_its_own_address(port: unio.Port, resources: contextlib.ExitStack) -> None:
    listening = channels.listener(resources, "tcp")
    client = channels.client(resources, "tcp")
    client.bind(("127.0.0.1", 0))
    name = client.getsockname()
    support.succeed(port, unio.Connect(port.associate(client), listening.getsockname()))
    accepted, address = listening.accept()
    resources.enter_context(accepted)
    assert address == client.getsockname() == name


@pytest.mark.clause("O2", "O5")
def test_sends_submitted_after_a_connect_leave_once_it_has_connected(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening = channels.listener(resources, "tcp")
    handle = port.associate(channels.client(resources, "tcp"))
    operations = [unio.Connect(handle, listening.getsockname()), unio.Send(handle, b"one "), unio.Send(handle, b"two")]
    for operation in operations:
        port.submit(operation)
    found = support.completions(port, 3)
    assert [completion.operation for completion in found] == operations
    assert [(completion.transferred, completion.error) for completion in found] == [(0, None), (4, None), (3, None)]
    assert support.recv_exactly(resources.enter_context(listening.accept()[0]), 7) == b"one two"


@pytest.mark.clause("O2", "C2")
@channels.every_socket
def test_a_refused_connect_is_a_connection_refused_error(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    address = listening.getsockname()
    if transport == "local":
        listening.close()  # the path stays, and nobody listens there
    else:
        bound = channels.client(resources, transport)  # its port is taken, and nobody listens there
        bound.bind((address[0], 0))
        address = bound.getsockname()
    completion = support.run(port, unio.Connect(port.associate(channels.client(resources, transport)), address))
    assert type(completion.error) is ConnectionRefusedError
    assert completion.error.errno == errno.ECONNREFUSED
    assert completion.transferred == 0


@pytest.mark.clause("O2", "C2")
@needs_af_unix
def test_connecting_to_a_path_that_is_not_there_is_a_file_not_found_error(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    handle = port.associate(channels.client(resources, "local"))
    completion = support.run(port, unio.Connect(handle, channels.path(resources, "missing")))
    assert type(completion.error) is FileNotFoundError


@pytest.mark.clause("O2", "C2")
def test_an_unreachable_address_is_an_error_of_the_completion(port: unio.Port, resources: contextlib.ExitStack) -> None:
    handle = port.associate(channels.client(resources, "tcp"))
    # A stream can't go to a broadcast address; the system says so before anything leaves the machine.
    completion = support.run(port, unio.Connect(handle, ("255.255.255.255", 9)))
    assert completion.error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES)


@pytest.mark.clause("O2", "C2")
@channels.every_socket
def test_connecting_twice_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)
    client = channels.client(resources, transport)
    connect = unio.Connect(port.associate(client), listening.getsockname())
    support.succeed(port, connect)
    other = channels.listener(resources, transport)
    for address in (other.getsockname(), listening.getsockname()):
        connect.address = address
        assert support.run(port, connect).error.errno == errno.EISCONN
    assert client.getpeername() == listening.getsockname()


def full_listener(resources, transport):
    """A listener with no room left: the next connection waits."""
    listening = channels.listener(resources, transport, 0)
    waiting = []
    for _ in range(4):
        client = channels.client(resources, transport)
        client.setblocking(False)
        if client.connect_ex(listening.getsockname()) != errno.EAGAIN:
            waiting.append(client)
    return listening, waiting


@pytest.mark.clause("O2", "S8")
@channels.every_socket
def test_a_connect_that_nobody_answers_ends_with_the_time_out_of_its_submission(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening, _ = full_listener(resources, transport)
    handle = port.associate(channels.client(resources, transport))
    completion = support.run(port, unio.Connect(handle, listening.getsockname()), timeout=0.05)
    assert type(completion.error) is TimeoutError
    assert completion.error.errno == errno.ETIMEDOUT
    support.assert_idle(port)


@pytest.mark.clause("O2", "X1")
@channels.every_socket
def test_a_connect_that_nobody_answers_can_be_cancelled(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening, _ = full_listener(resources, transport)
    connect = unio.Connect(port.associate(channels.client(resources, transport)), listening.getsockname())
    port.submit(connect)
    support.assert_idle(port)
    assert port.cancel(connect)
    support.assert_cancelled(support.completion(port))
    support.assert_idle(port)


@pytest.mark.clause("O2", "L4")
@needs_af_unix
def test_a_local_connect_waits_until_a_full_backlog_has_room(port: unio.Port, resources: contextlib.ExitStack) -> None:
    listening, _ = full_listener(resources, "local")
    handle = port.associate(channels.client(resources, "local"), "late")
    port.submit(unio.Connect(handle, listening.getsockname()))
    port.submit(unio.Send(handle, b"at last"))
    channels.assert_sleeps(port)
    listening.settimeout(0)
    resources.enter_context(listening.accept()[0])
    assert [completion.error for completion in support.completions(port, 2)] == [None, None]
    accepted = resources.enter_context(listening.accept()[0])
    accepted.settimeout(support.PATIENCE)
    assert accepted.recv(100) == b"at last"


@pytest.mark.clause("O2", "L4")
@needs_af_unix
def test_a_local_connect_to_a_full_backlog_is_refused_when_the_listener_goes(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening, _ = full_listener(resources, "local")
    handle = port.associate(channels.client(resources, "local"))
    port.submit(unio.Connect(handle, listening.getsockname()))
    support.assert_idle(port)
    listening.close()
    assert type(support.completion(port).error) is ConnectionRefusedError


@pytest.mark.clause("O2")
@pytest.mark.parametrize(
    ("transport", "address"),
    [
        ("tcp", ("localhost", 80)),
        ("tcp", ("", 80)),
        ("tcp", ("::1", 80)),
        ("tcp6", ("localhost", 80)),
        ("tcp6", ("127.0.0.1", 80)),
        ("tcp", ("127.0.0.1", 65536)),
        ("tcp", ("127.0.0.1", -1)),
    ],
)
def test_an_address_that_is_not_numeric_is_refused_where_it_is_given(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, address: Any
) -> None:
    handle = port.associate(channels.client(resources, transport))
    with pytest.raises(ValueError, match=r"numeric|port number"):
        unio.Connect(handle, address)
    connect = unio.Connect(handle, (("::1" if transport == "tcp6" else "127.0.0.1"), 80))
    with pytest.raises(ValueError, match=r"numeric|port number"):
        connect.address = address


@pytest.mark.clause("O2", "O3")
@channels.every_socket
def test_what_the_peer_sent_before_it_closed_at_once_arrives_before_the_end(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    listening = channels.listener(resources, transport)

    def greet_and_leave():
        for _ in range(50):
            accepted, _ = listening.accept()
            accepted.sendall(b"220 welcome")
            accepted.close()

    listening.settimeout(support.PATIENCE)
    peer = support.Background(greet_and_leave)
    for _ in range(50):
        client = channels.client(resources, transport)
        handle = port.associate(client)
        support.succeed(port, unio.Connect(handle, listening.getsockname()))
        assert channels.receive_all(port, handle) == b"220 welcome"
        handle.close()
    peer.result()


@pytest.mark.clause("O2")
def test_many_connects_in_flight_complete_each_with_its_own_result(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening = channels.listener(resources, "tcp", 500)
    bound = channels.client(resources, "tcp")
    bound.bind(("127.0.0.1", 0))
    connects = []
    for number in range(200):
        address = bound.getsockname() if number % 3 == 0 else listening.getsockname()
        client = channels.client(resources, "tcp")
        connects.append(unio.Connect(port.associate(client, number), address))
        port.submit(connects[-1])
    found = {completion.key: completion for completion in support.completions(port, len(connects))}
    assert sorted(found) == list(range(200))
    for number, connect in enumerate(connects):
        if number % 3 == 0:
            assert type(found[number].error) is ConnectionRefusedError
        else:
            assert found[number].error is None
            assert connect.handle.socket.getpeername() == listening.getsockname()
