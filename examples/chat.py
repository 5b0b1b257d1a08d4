"""A chat: every line that a member sends goes to all the others.

A member that doesn't read is dropped once too much waits for it: it neither delays the others nor fills the memory.
"""

import argparse
import signal
import socket

import unio

BACKLOG_MAX = 1024 * 1024  # bytes that may wait for one member, besides those being sent to it
LINE_MAX = 4096  # bytes; a longer line goes out in pieces

members: set["Member"] = set()


class Member:
    """A client of the chat: it is received from and sent to at the same time."""

    def __init__(self, port: unio.Port, sock: socket.socket) -> None:
        self.port = port
        self.handle = port.associate(sock, key=self)
        self.buffer, self.line, self.backlog = memoryview(bytearray(LINE_MAX)), bytearray(), bytearray()
        self.recv = unio.Recv(self.handle, self.buffer)
        self.send = unio.Send(self.handle, b"")
        members.add(self)
        port.submit(self.recv)

    def completed(self, operation: unio.Operation, transferred: int, error: OSError | None) -> None:
        if error or not transferred or self not in members:  # what ended before leave() may still arrive after it
            self.leave()
        elif operation is self.send:
            self.tell(b"")
        else:
            self.received(self.buffer[:transferred])
            self.port.submit(self.recv)

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

    def leave(self) -> None:
        members.discard(self)
        self.handle.close()


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
        signal.signal(signal.SIGINT, lambda *_: port.post("exit"))
        port.submit(unio.Accept(port.associate(listening)))
        print("listening on {}:{}".format(*listening.getsockname()), f"({port.backend})", flush=True)
        while True:
            # Windows runs a signal handler only between two waits, so that none of them may last for ever.
            for key, operation, transferred, error in port.wait(timeout=0.5):
                match operation:
                    case None:  # the packet that Ctrl-C posted
                        return
                    case unio.Accept():
                        if not error:
                            Member(port, operation.socket)
                        port.submit(operation)
                    case _:
                        key.completed(operation, transferred, error)


if __name__ == "__main__":
    main()
