"""A hashing server: each client gets the SHA-256 of what it has sent, computed in the threads of a pool."""

import argparse
import contextlib
import hashlib
import signal
import socket

import unio

BUFFER_SIZE = 64 * 1024  # bytes, per client


async def digest(port: unio.Port, sock: socket.socket) -> None:
    with contextlib.suppress(OSError), port.associate(sock) as handle:
        hashed = hashlib.sha256()
        recv = unio.Recv(handle, bytearray(BUFFER_SIZE))
        while (await recv).transferred:
            hashed.update(recv.data)  # meanwhile other threads compute for other clients
        await unio.Send(handle, f"{hashed.hexdigest()}\n".encode())


async def serve(port: unio.Port, listening: socket.socket) -> None:
    accept = unio.Accept(port.associate(listening))
    while not port.draining:
        with contextlib.suppress(OSError):
            await accept
            port.start(digest(port, accept.take()))  # from here on any thread may go on with it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    options = parser.parse_args()
    try:
        listening = socket.create_server((options.host, options.port))
    except (OSError, OverflowError) as problem:
        parser.error(f"can't listen on {options.host}:{options.port}: {problem}")
    with listening, unio.Port() as port, unio.Pool(port, grace=0) as pool:
        for number in signal.SIGINT, signal.SIGTERM:
            signal.signal(number, lambda *_: pool.shutdown(wait=False))
        port.start(serve(port, listening))
        print("listening on {}:{}".format(*listening.getsockname()), f"({port.backend})", flush=True)
        pool.join()


if __name__ == "__main__":
    main()
