"""How the tests speak to a server of files: through a client that knows HTTP, or in bytes."""

from __future__ import annotations

import http.client

from command import PATIENCE, Served, everything


def get(served: Served, target: str, method: str = "GET", body: bytes | None = None, **headers: str):
    """One request on a connection of its own: the response and its body."""
    connection = http.client.HTTPConnection(served.host, served.port, timeout=PATIENCE)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, body, headers=named)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def request(target: str, *lines: str, method: str = "GET") -> bytes:
    """The bytes of a request, after which the connection ends; *lines* are headers of it."""
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: here", "Connection: close", *lines])
    return f"{head}\r\n\r\n".encode("latin-1")


def raw(served: Served, request: bytes) -> tuple[int, bytes]:
    """What a server says to these bytes until it ends the connection: the status and everything else."""
    with served.connect() as client:
        client.sendall(request)
        answer = everything(client)
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12]), answer
