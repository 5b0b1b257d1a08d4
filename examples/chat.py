"""A chat: every line that a member sends goes to all the others.

A member that doesn't read is dropped once too much waits for it: it neither delays the others nor fills the memory.
"""

import argparse
import contextlib
import signal
import socket

import unio

BACKLOG_MAX = 1024 * 1024  # bytes that may wait for one member, besides those being sent to it
LINE_MAX = 4096  # bytes; a longer line goes out in pieces

members: set["Member"] = set()


class Member:
    """A client of the chat. A task receives from it; what is sent to it meanwhile follows its own completions."""

    def __init__(self, port: unio.Port, sock: socket.socket) -> None:
        self.port = port
        self.handle = port.associate(sock)
        self.line, self.backlog = bytearray(), bytearray()
        self.send = unio.Send(self.handle, b"", state=self.sent)
        members.add(self)

    async def talk(self) -> None:
        recv = unio.Recv(self.handle, bytearray(LINE_MAX))
        try:
            with contextlib.suppress(OSError), self.handle:
                while (await recv).transferred and self in members:
                    self.received(recv.data)
        finally:
            members.discard(self)

    def received(self, data: memoryview) -> None:
        self.line += data
        end = self.line.rfind(b"\n") + 1
        if end or len(self.line) >= LINE_MAX:
            lines = bytes(self.line[: end or None])
            del self.line[: len(lines)]
            for other in members - {self}:
                other.tell(lines)

    def tell(self, lines: bytes) -> None:
        self.backlog += lines
        if self.backlog and not self.send.in_flight:
            self.send.buffer, self.backlog = self.backlog, bytearray()
            self.port.submit(self.send)
        elif len(self.backlog) > BACKLOG_MAX:
            self.leave()

    def sent(self, completion: unio.Completion) -> None:
        if completion.error:
            self.leave()
        elif self in members:
            self.tell(b"")

    def leave(self) -> None:
        members.discard(self)
        self.handle.close()  # which ends the task's receive


async def serve(port: unio.Port, listening: socket.socket) -> None:
    accept = unio.Accept(port.associate(listening))
    while not port.draining:
        with contextlib.suppress(OSError):
            await accept
            port.start(Member(port, accept.take()).talk())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    options = parser.parse_args()
    try:
        listening = socket.create_server((options.host, options.port))
    except (OSError, OverflowError) as problem:
        parser.error(f"can't listen on {options.host}:{options.port}: {problem}")
    listening.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # for its connections: what is said is heard at once
    with listening, unio.Port() as port:
        for number in signal.SIGINT, signal.SIGTERM:
            port.submit(unio.Signal(number, state=lambda _: port.stop()))
        port.start(serve(port, listening))
        print("listening on {}:{}".format(*listening.getsockname()), f"({port.backend})", flush=True)
        port.run()


if __name__ == "__main__":
    main()
