"""What both servers of ``python -m unio serve`` have in common: how they start, stop, and fail."""

from __future__ import annotations

import random
import signal
import socket
from types import SimpleNamespace

import pytest
from command import PATIENCE, Served, everything, received, step
from platforms import needs_signals

import unio
from unio.cli.echo import EchoConnection

LARGE = 32 * 1024 * 1024
"""More bytes than the sockets between a server and a client that doesn't read will hold."""

STOPS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def directory(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGE)
    return tmp_path


@pytest.fixture(params=["echo", "files"])
def server(request, directory):
    return [request.param, str(directory)] if request.param == "files" else [request.param]


def test_the_first_line_says_where_and_on_what(server):
    with Served(*server) as served:
        assert served.first_line == f"listening on 127.0.0.1:{served.port} ({unio.backends.choose()})\n"
        served.connect().close()


def test_an_ipv6_address_is_printed_in_brackets():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    with Served("echo", host="::1") as served, served.connect() as client:
        assert served.host == "[::1]"
        client.sendall(b"six")
        assert received(client, 3) == b"six"


def test_a_named_backend_is_used(server):
    name = unio.backends.choose()
    with Served(*server, "--backend", name) as served:
        assert served.backend == name


@needs_signals
@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("number", STOPS)
def test_a_signal_ends_an_idle_server_in_order(server, number, threads):
    with Served(*server, "--threads", threads, "--grace", "1000") as served:
        with served.connect() as idle:
            idle.sendall(b"HEAD /large HTTP/1.1\r\nHost: here\r\n\r\n")
            assert received(idle, 1)  # so it was accepted, and now it is idle
            served.signal(number)
            everything(idle)  # the end, and no reset
        assert served.exit_status() == 0
        assert served.stderr == ""


@needs_signals
@pytest.mark.parametrize("number", STOPS)
def test_a_download_in_flight_is_finished(directory, number):
    with Served("files", str(directory), "--grace", "20") as served:
        with served.connect() as client:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
            begin = received(client, 1000)
            served.signal(number)
            assert served.has_stopped_accepting()
            _, _, body = (begin + everything(client)).partition(b"\r\n\r\n")
        assert len(body) == LARGE
        assert served.exit_status() == 0
        assert served.stderr == ""


def test_a_client_that_comes_while_the_server_stops_is_let_go():
    near, client = socket.socketpair()
    with unio.Port() as port, near, client:
        server = SimpleNamespace(port=port, context=None, stopping=True, remove=lambda connection: None)
        connection = EchoConnection(server, near)
        port.start(connection.run())
        while not connection.stream.handle.closed:
            if isinstance(step(port).operation, unio.Shutdown):
                assert client.recv(1) == b""
                client.shutdown(socket.SHUT_WR)


@needs_signals
def test_an_echo_in_flight_is_finished():
    message = random.Random(4).randbytes(LARGE)
    with Served("echo", "--grace", "20") as served:
        with served.connect() as client:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.sendall(message)
            client.settimeout(PATIENCE)
            begin = received(client, 1)  # so it was accepted, and it can't get rid of what it has received
            served.signal(signal.SIGTERM)
            assert served.has_stopped_accepting()
            echoed = begin + everything(client)
        assert message.startswith(echoed)
        assert served.exit_status() == 0
        assert served.stderr == ""


@needs_signals
def test_a_download_that_takes_too_long_is_cut_off(directory):
    with Served("files", str(directory), "--grace", "0.1", "--threads", "2") as served, served.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
        received(client, 1000)
        served.signal(signal.SIGTERM)
        assert served.exit_status() == 0
        assert served.stderr == ""


@needs_signals
@pytest.mark.parametrize("number", STOPS)
def test_the_second_signal_ends_the_server_at_once(directory, number):
    with Served("files", str(directory), "--grace", "1000") as served, served.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
        received(client, 1000)
        served.signal(number)
        assert served.has_stopped_accepting()
        served.signal(number)
        assert served.exit_status() == -number
