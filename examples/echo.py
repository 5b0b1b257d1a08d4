"""An echo server: every client gets back what it sends. Ctrl-C or SIGTERM ends it in order."""

import argparse
import contextlib
import signal
import socket
import sys

import unio

GRACE_SECONDS = 5.0  # for what is being sent when the server is to end


async def echo(port: unio.Port, sock: socket.socket) -> None:
    with contextlib.suppress(OSError), port.associate(sock) as handle:
        recv, send = unio.Recv(handle), unio.Send(handle, b"")
        while (await recv).transferred:  # 0 bytes: the client has sent everything
            send.buffer = recv.data
            await send


async def serve(port: unio.Port, listening: socket.socket) -> None:
    accept = unio.Accept(port.associate(listening))
    while not port.draining:
        with contextlib.suppress(OSError):  # such as that no descriptor is free: the listener survives that
            await accept
            port.start(echo(port, accept.take()))


async def end(port: unio.Port) -> None:
    """Let what is being sent end, and cut off the rest."""
    cut_off = await port.drain(GRACE_SECONDS, quiet=0)
    if cut_off:
        print(f"{len(cut_off)} operations were cut off", file=sys.stderr)
    port.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    options = parser.parse_args()
    try:
        listening = socket.create_server((options.host, options.port))
    except (OSError, OverflowError) as problem:
        parser.error(f"can't listen on {options.host}:{options.port}: {problem}")
    with listening, unio.Port() as port:

        def signalled(completion: unio.Completion) -> None:
            if completion.error is None:  # the end of the other one's wait is no signal
                port.start(end(port))

        for number in signal.SIGINT, signal.SIGTERM:
            port.submit(unio.Signal(number, state=signalled))  # before the port runs: from now on it is heard
        port.start(serve(port, listening))
        print("listening on {}:{}".format(*listening.getsockname()), f"({port.backend})", flush=True)
        port.run()


if __name__ == "__main__":
    main()
