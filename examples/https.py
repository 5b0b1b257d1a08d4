"""An HTTPS server: the files of a directory, over HTTP/1.1 in TLS."""

import argparse
import contextlib
import signal
import socket
import ssl
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote

import unio

HEAD_MAX = 16 * 1024  # bytes of a request's line and headers
IDLE_SECONDS = 30  # how long a client may be silent, or take nothing
LINGER_SECONDS = 2  # how long it may take to end the connection
PIECE_SIZE = 256 * 1024  # bytes of a file that are held at once


async def answer(stream: unio.Stream, root: Path) -> bool:
    """Answer one request. Returns whether the client may send another."""
    head = (await stream.read_until(b"\r\n\r\n", HEAD_MAX)).decode("latin-1")
    method, target, version = head.partition("\r\n")[0].split(" ")
    path = (root / unquote(target.partition("?")[0]).lstrip("/")).resolve()
    is_last = method != "GET" or version != "HTTP/1.1" or "\r\nconnection: close" in head.lower()
    if method == "GET" and path.is_relative_to(root) and path.is_file():
        status, size = HTTPStatus.OK, path.stat().st_size
    else:
        status, size = HTTPStatus.NOT_FOUND if method == "GET" else HTTPStatus.METHOD_NOT_ALLOWED, 0
    end = "Connection: close\r\n\r\n" if is_last else "\r\n"
    await stream.write(f"HTTP/1.1 {status} {status.phrase}\r\nContent-Length: {size}\r\n{end}".encode())
    if size:
        with path.open("rb") as file:
            while piece := file.read(PIECE_SIZE):
                await stream.write(piece)
    return not is_last


async def serve(stream: unio.Stream, context: ssl.SSLContext, root: Path) -> None:
    # A client that ends, breaks off, says nothing for too long or speaks no HTTP is no matter of anybody else's.
    with contextlib.suppress(OSError, ValueError, unio.StreamEnded):
        await stream.start_tls(context, server_side=True)
        while await answer(stream, root):
            pass
        await stream.close(linger=LINGER_SECONDS)
    stream.abort()


async def accept(port: unio.Port, listening: socket.socket, context: ssl.SSLContext, root: Path) -> None:
    accept = unio.Accept(port.associate(listening))
    while not port.draining:
        with contextlib.suppress(OSError):  # no descriptor is left, for now
            await accept
            stream = unio.Stream(port, accept.take(), idle_timeout=IDLE_SECONDS)
            port.start(serve(stream, context, root))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("certificate", help="in PEM, with the chain that leads to it")
    parser.add_argument("key", help="in PEM, without a password")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    options = parser.parse_args()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.certificate, options.key, password="")
        listening = socket.create_server((options.host, options.port))
    except (OSError, OverflowError) as problem:
        parser.error(f"can't serve on {options.host}:{options.port}: {problem}")
    with listening, unio.Port() as port:
        for number in signal.SIGINT, signal.SIGTERM:
            port.submit(unio.Signal(number, state=lambda _: port.stop()))
        port.start(accept(port, listening, context, options.directory.resolve()))
        print("listening on {}:{}".format(*listening.getsockname()), f"({port.backend})", flush=True)
        port.run()


if __name__ == "__main__":
    main()
