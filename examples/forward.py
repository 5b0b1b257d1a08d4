"""A TCP forwarder: every connection goes on to the target, both ways, and so does the end of each direction."""

import argparse
import contextlib
import signal
import socket

import unio

BUFFER_SIZE = 64 * 1024  # bytes, per direction: no more is received before all of it was sent


async def pump(source: unio.Handle, target: unio.Handle) -> None:
    """Send to the one what the other sends, and then its end. An error of either ends both directions."""
    try:
        recv, send = unio.Recv(source, bytearray(BUFFER_SIZE)), unio.Send(target, b"")
        while (await recv).transferred:
            send.buffer = recv.data
            await send
        await unio.Shutdown(target)
    except OSError:
        source.close()
        target.close()


async def link(port: unio.Port, sock: socket.socket, family: int, address: object) -> None:
    with contextlib.suppress(OSError), port.associate(sock) as client:
        other = socket.socket(family)  # unless no descriptor is left for it
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with port.associate(other) as target:
            await unio.Connect(target, address)
            answers = port.start(pump(target, client))
            await pump(client, target)
            await answers


async def serve(port: unio.Port, listening: socket.socket, family: int, address: object) -> None:
    accept = unio.Accept(port.associate(listening))
    while not port.draining:
        with contextlib.suppress(OSError):
            await accept
            port.start(link(port, accept.take(), family, address))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target_host")
    parser.add_argument("target_port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    options = parser.parse_args()
    if options.target_port not in range(1, 2**16):
        parser.error(f"{options.target_port} is not the port of a target")
    try:  # the name is resolved here, once: an operation takes numeric addresses only
        family, *_, address = socket.getaddrinfo(options.target_host, options.target_port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server((options.host, options.port))
    except (OSError, OverflowError, UnicodeError) as problem:
        parser.error(f"can't forward {options.host}:{options.port} to {options.target_host}: {problem}")
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for its connections: nothing waits for more
    with listening, unio.Port() as port:
        for number in signal.SIGINT, signal.SIGTERM:
            port.submit(unio.Signal(number, state=lambda _: port.stop()))
        port.start(serve(port, listening, family, address))
        print("listening on {}:{}".format(*listening.getsockname()), f"({port.backend})", flush=True)
        port.run()


if __name__ == "__main__":
    main()
