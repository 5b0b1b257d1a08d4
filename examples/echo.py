"""An echo server: every client gets back what it sends."""

import argparse
import signal
import socket

import unio

BUFFER_SIZE = 64 * 1024  # bytes, per client


class Client:
    """One client: a buffer, and the two operations that take turns with it."""

    def __init__(self, port: unio.Port, sock: socket.socket) -> None:
        self.port = port
        self.handle = port.associate(sock, key=self)
        self.buffer = memoryview(bytearray(BUFFER_SIZE))
        self.recv = unio.Recv(self.handle, self.buffer)
        self.send = unio.Send(self.handle, b"")
        port.submit(self.recv)

    def completed(self, operation: unio.Operation, transferred: int, error: OSError | None) -> None:
        if error or not transferred:  # 0 bytes received: the client has sent everything
            self.handle.close()
        elif operation is self.recv:
            self.send.buffer = self.buffer[:transferred]
            self.port.submit(self.send)
        else:
            self.port.submit(self.recv)


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
                            Client(port, operation.socket)
                        port.submit(operation)
                    case _:
                        key.completed(operation, transferred, error)


if __name__ == "__main__":
    main()
