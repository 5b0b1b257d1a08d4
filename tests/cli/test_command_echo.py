"""``python -m unio serve echo`` sends every client what it sent, and survives what clients and the system do to it."""

from __future__ import annotations

import random
import signal
import socket
import struct
import threading

import pytest
from command import FAULTY, PATIENCE, Served, everything, received
from platforms import needs_rlimit, needs_signals

CLIENTS = 20


@pytest.fixture(params=["1", "2"], ids=["one thread", "two threads"])
def served(request):
    with Served("echo", "--threads", request.param) as server:
        yield server
        server.ends_in_order()


def test_each_client_gets_its_own_bytes(served):
    clients = [served.connect() for _ in range(CLIENTS)]
    for turn in range(5):
        for number, client in enumerate(clients):
            client.sendall(f"client {number:2} turn {turn}".encode())
        for number, client in enumerate(clients):
            assert received(client, 16) == f"client {number:2} turn {turn}".encode()
    for client in clients:
        client.close()


def test_a_large_message_comes_back_whole_and_in_order(served):
    message = random.Random(1).randbytes(5_000_000)
    with served.connect() as client:
        sender = threading.Thread(target=client.sendall, args=(message,))
        sender.start()
        assert received(client, len(message)) == message
        sender.join(PATIENCE)
        assert not sender.is_alive()


def test_a_client_that_has_said_all_still_gets_the_rest(served):
    message = random.Random(2).randbytes(100_000)
    with served.connect() as client:
        client.sendall(message)
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == message


def test_a_client_that_resets_the_connection_harms_nobody(served):
    with served.connect() as other:
        for _ in range(CLIENTS):
            with served.connect() as client:
                client.sendall(bytes(1000))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.sendall(b"still here")
        assert received(other, 10) == b"still here"


@needs_rlimit
def test_running_out_of_descriptors_is_survived():
    limit = 40
    before = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "import unio.cli.server as server; server.ACCEPTS = 1"  # so that none may be lost
    )
    with Served("echo", before=before) as served:
        clients = [served.connect() for _ in range(limit * 2)]  # those that can't be accepted wait in the backlog
        assert served.process.stderr is not None
        assert "can't accept" in served.process.stderr.readline()
        clients[0].sendall(b"first")
        assert received(clients[0], 5) == b"first"
        last = clients.pop()
        last.sendall(b"last")
        for client in clients:
            client.close()
        assert received(last, 4) == b"last"
        with served.connect() as new:
            new.sendall(b"new")
            assert received(new, 3) == b"new"
        last.close()
        served.signal(signal.SIGTERM)
        assert served.exit_status() == 0


@needs_signals
def test_a_fault_in_serving_one_client_harms_no_other():
    with Served("echo", before=FAULTY) as served:
        with served.connect() as other, served.connect() as client:
            client.sendall(b"thirteen byte")
            assert everything(client) == b"thirteen byte"
            other.sendall(b"still here")
            assert received(other, 10) == b"still here"
        served.signal(signal.SIGTERM)
        assert served.exit_status() == 0
        assert "ZeroDivisionError" in served.stderr
