"""A key-value server that speaks the protocol of Redis (RESP): strings, counters and lists, in memory."""

import argparse
import contextlib
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable

import unio

COUNT_MAX = 1024 * 1024  # arguments of one command
SIZE_MAX = 512 * 1024 * 1024  # bytes of one argument

Reply = bytes | int | str | list[bytes] | None
store: dict[bytes, bytes | deque[bytes]] = {}


# The protocol


class ProtocolError(Exception):
    """What came is not RESP, so that nothing that follows can be understood."""


def number(text: bytes, most: int) -> int:
    if not text.strip().isdigit() or int(text) > most:
        raise ProtocolError(f"invalid length {text!r}")
    return int(text)


async def commands(stream: unio.Stream) -> AsyncIterator[list[bytes]]:
    """The commands that a client sends: arrays of strings, or words in a line."""
    async for line in stream:
        if not line.startswith(b"*"):
            if words := line.split():
                yield words
            continue
        words = []
        for _ in range(number(line[1:], COUNT_MAX)):
            head = await stream.read_line()
            if not head.startswith(b"$"):
                raise ProtocolError(f"expected '$', got {head[:1]!r}")
            words.append((await stream.read_exactly(number(head[1:], SIZE_MAX) + 2))[:-2])
        if words:
            yield words


def encoded(reply: Reply) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case str():
            return b"%s\r\n" % reply.encode()
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encoded, reply))


# The commands


class WrongTypeError(Exception):
    """What a key stands for is of another kind than the command is for."""


def text(key: bytes) -> bytes | None:
    value = store.get(key)
    if isinstance(value, deque):
        raise WrongTypeError
    return value


def items(key: bytes) -> deque[bytes]:
    value = store.setdefault(key, deque())
    if isinstance(value, bytes):
        raise WrongTypeError
    return value


def put(key: bytes, value: bytes) -> str:
    store[key] = value
    return "+OK"


def increase(key: bytes, by: bytes = b"1") -> int:
    value = int(text(key) or 0) + int(by)
    store[key] = b"%d" % value
    return value


def push(key: bytes, *values: bytes) -> int:
    found = items(key)
    found.extendleft(values)
    return len(found)


def pop(key: bytes) -> bytes | None:
    found = items(key)
    return found.popleft() if found else None


def delete(*keys: bytes) -> int:
    return sum([store.pop(key, None) is not None for key in keys])


COMMANDS: dict[bytes, Callable[..., Reply]] = {
    b"COMMAND": lambda *_: [],
    b"CONFIG": lambda *_: [],
    b"DEL": delete,
    b"ECHO": lambda text: text,
    b"EXISTS": lambda *keys: sum([key in store for key in keys]),
    b"GET": text,
    b"INCR": increase,
    b"INCRBY": increase,
    b"LLEN": lambda key: len(items(key)),
    b"LPOP": pop,
    b"LPUSH": push,
    b"MGET": lambda *keys: [text(key) or b"" for key in keys],
    b"PING": lambda text=None: "+PONG" if text is None else text,
    b"SET": put,
}


def carried_out(name: bytes, *arguments: bytes) -> Reply:
    try:
        return COMMANDS[name.upper()](*arguments)
    except KeyError:
        return f"-ERR unknown command {name!r}"
    except TypeError:
        return "-ERR wrong number of arguments"
    except WrongTypeError:
        return "-WRONGTYPE Operation against a key holding the wrong kind of value"
    except ValueError:
        return "-ERR value is not an integer or out of range"


# The server


async def serve(stream: unio.Stream) -> None:
    with contextlib.suppress(OSError, unio.StreamEnded, unio.LimitExceeded):
        async with stream:
            try:
                async for command in commands(stream):
                    await stream.write(encoded(carried_out(*command)))  # those of one turn leave together
            except ProtocolError as problem:
                await stream.write(encoded(f"-ERR Protocol error: {problem}"))


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
