"""examples/redis.py"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import support
from patience import PROGRAM

Serve = Callable[..., Any]

needs_redis = pytest.mark.skipif(
    shutil.which("redis-cli") is None or shutil.which("redis-benchmark") is None, reason="there are no redis-tools here"
)


def ask(client: socket.socket, request: bytes, answer: bytes) -> None:
    client.sendall(request)
    assert support.recv_exactly(client, len(answer)) == answer


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%s\r\n" % (len(word), word) for word in words])


@needs_redis
def test_redis_cli(serve: Serve) -> None:
    host, port = serve("redis").address
    lines = ["SET a 1", "INCR a", "GET a", "GET nothing", "LPUSH l x y", "LPOP l", "LLEN l", "GET l", "DEL a l"]
    lines += ["EXISTS a", "PING", "NONSENSE", ""]
    redis_cli = ["redis-cli", "-h", host, "-p", str(port)]
    done = subprocess.run(
        redis_cli, input="\n".join(lines), capture_output=True, text=True, check=True, timeout=PROGRAM
    )
    assert [line for line in done.stdout.splitlines() if line] == [
        *("OK", "2", "2", "2", "y", "1"),
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        *("2", "0", "PONG", "ERR unknown command b'NONSENSE'"),
    ]


@needs_redis
@pytest.mark.parametrize("pipeline", [1, 100])
def test_redis_benchmark(serve: Serve, pipeline: int) -> None:
    host, port = serve("redis").address
    options = ["-t", "ping,set,get,incr,lpush,lpop,mset", "-n", "2000", "-c", "20", "-P", str(pipeline), "--csv"]
    redis_benchmark = ["redis-benchmark", "-h", host, "-p", str(port), *options]
    done = subprocess.run(redis_benchmark, capture_output=True, text=True, timeout=PROGRAM, check=False)
    assert "GET" in done.stdout, done.stderr


def test_commands_in_any_pieces(serve: Serve) -> None:
    with serve("redis").connect() as client:
        ask(client, command(b"SET", b"key", b"a\r\nb"), b"+OK\r\n")
        for piece in [bytes([byte]) for byte in command(b"GET", b"key")]:
            client.sendall(piece)
        assert support.recv_exactly(client, 10) == b"$4\r\na\r\nb\r\n"
        ask(client, b"PING\r\n\r\nECHO hello\r\n", b"+PONG\r\n$5\r\nhello\r\n")
        ask(client, command(b"MGET", b"key", b"none"), b"*2\r\n$4\r\na\r\nb\r\n$0\r\n\r\n")
        ask(client, command(b"SET", b"only a key"), b"-ERR wrong number of arguments\r\n")
        ask(client, command(b"INCR", b"key"), b"-ERR value is not an integer or out of range\r\n")


def test_many_commands_at_once(serve: Serve) -> None:
    with serve("redis").connect() as client:
        sending = support.Background(client.sendall, command(b"INCR", b"counter") * 20_000)
        expected = b"".join([b":%d\r\n" % number for number in range(1, 20_001)])
        assert support.recv_exactly(client, len(expected)) == expected
        sending.result()


@pytest.mark.parametrize("nonsense", [b"*x\r\n", b"*1\r\n+a\r\n", b"*99999999\r\n", b"*1\r\n$-5\r\n"])
def test_what_is_not_the_protocol_is_said_to_be_so(serve: Serve, nonsense: bytes) -> None:
    with serve("redis").connect() as client:
        client.sendall(nonsense)
        client.shutdown(socket.SHUT_WR)
        assert support.recv_to_end(client).startswith(b"-ERR Protocol error: ")


def test_a_line_without_end_ends_its_client_alone(serve: Serve) -> None:
    server = serve("redis")
    with server.connect() as client, server.connect() as other:
        client.sendall(b"x" * 100_000)
        with contextlib.suppress(ConnectionResetError):  # as it has not read all of that
            assert client.recv(1) == b""
        ask(other, b"PING\r\n", b"+PONG\r\n")
