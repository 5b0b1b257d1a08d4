"""A SOCKS5 proxy (RFC 1928): connections to wherever its clients ask for, by name or by address."""

import argparse
import contextlib
import ipaddress
import signal
import socket

import unio

VERSION, NO_LOGIN, NO_METHOD, CONNECT, IPV4, NAME, IPV6 = 5, 0, 0xFF, 1, 1, 3, 4
GRANTED, FAILED, REFUSED, NO_COMMAND, NO_ADDRESS = 0, 1, 5, 7, 8
BEGIN_SECONDS = 30  # how long a client may take to say what it wants, and the target to answer


class RefusedError(Exception):
    """What a client wants can't be had; this has what it is told."""


def reply(code: int) -> bytes:
    return bytes([VERSION, code, 0, IPV4, *bytes(6)])


async def wanted(client: unio.Stream) -> tuple[str, int]:
    """The host and the port that the client asks for. Raises RefusedError."""
    version, count = await client.read_exactly(2, timeout=BEGIN_SECONDS)
    methods = await client.read_exactly(count, timeout=BEGIN_SECONDS)
    if version != VERSION or NO_LOGIN not in methods:
        raise RefusedError(bytes([VERSION, NO_METHOD]))
    await client.write(bytes([VERSION, NO_LOGIN]))
    _, command, _, kind = await client.read_exactly(4, timeout=BEGIN_SECONDS)
    if kind == NAME:
        [size] = await client.read_exactly(1, timeout=BEGIN_SECONDS)
        host = (await client.read_exactly(size, timeout=BEGIN_SECONDS)).decode("ascii")
    elif kind in (IPV4, IPV6):
        host = str(ipaddress.ip_address(await client.read_exactly(4 if kind == IPV4 else 16, timeout=BEGIN_SECONDS)))
    else:
        raise RefusedError(reply(NO_ADDRESS))
    port = int.from_bytes(await client.read_exactly(2, timeout=BEGIN_SECONDS))
    if command != CONNECT:
        raise RefusedError(reply(NO_COMMAND))
    if not host:  # which some systems take for this machine
        raise RefusedError(reply(FAILED))
    return host, port


async def connect(client: unio.Stream) -> unio.Stream | None:
    """The connection that the client asks for, of which it is told; None, and what it is told, without one."""
    try:
        host, port = await wanted(client)
        found = await unio.ConnectTo(host, port).within(BEGIN_SECONDS)
    except RefusedError as refusal:
        await client.write(refusal.args[0])
    except ConnectionRefusedError:
        await client.write(reply(REFUSED))
    except (OSError, ValueError):  # or it is no name at all
        await client.write(reply(FAILED))
    else:
        await client.write(reply(GRANTED))
        assert found.connection
        return unio.Stream(client.port, found.connection)
    return None


async def pass_on(source: unio.Stream, target: unio.Stream) -> None:
    """Everything from one to the other, and the end."""
    try:
        while piece := await source.read_some():
            await target.write(piece)
        await target.write_end()
    except OSError:  # one of both is gone, and so the other one is to go
        source.abort()
        target.abort()


async def serve(client: unio.Stream) -> None:
    with contextlib.suppress(OSError, unio.StreamEnded):
        if target := await connect(client):
            back = client.port.start(pass_on(target, client))
            await pass_on(client, target)
            await back
            await target.close()
        await client.close()
    client.abort()


async def accept(port: unio.Port, listening: socket.socket) -> None:
    accept = unio.Accept(port.associate(listening))
    while not port.draining:
        with contextlib.suppress(OSError):  # no descriptor is left, for now
            await accept
            port.start(serve(unio.Stream(port, accept.take())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    options = parser.parse_args()
    try:
        listening = socket.create_server((options.host, options.port))
    except (OSError, OverflowError) as problem:
        parser.error(f"can't listen on {options.host}:{options.port}: {problem}")
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for its connections: nothing waits for more
    with listening, unio.Port() as port:
        for number in signal.SIGINT, signal.SIGTERM:
            port.submit(unio.Signal(number, state=lambda _: port.stop()))
        port.start(accept(port, listening))
        print("listening on {}:{}".format(*listening.getsockname()), f"({port.backend})", flush=True)
        port.run()


if __name__ == "__main__":
    main()
