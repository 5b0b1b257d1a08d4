"""A TCP forwarder: every connection goes on to the target, both ways, and so does the end of each direction."""

import argparse
import signal
import socket

import unio

BUFFER_SIZE = 64 * 1024  # bytes, per direction: no more is received before all of it was sent


class Direction:
    """From one of the two to the other."""

    def __init__(self, source: unio.Handle, target: unio.Handle) -> None:
        self.buffer = memoryview(bytearray(BUFFER_SIZE))
        self.recv = unio.Recv(source, self.buffer, state=self)
        self.send = unio.Send(target, b"", state=self)
        self.shutdown = unio.Shutdown(target, state=self)


class Link:
    """A client, the connection to the target made for it, and the two directions between them."""

    def __init__(self, port: unio.Port, client: socket.socket, target: socket.socket, address: object) -> None:
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = port
        self.client = port.associate(client, key=self)
        self.target = port.associate(target, key=self)
        self.directions = [Direction(self.client, self.target), Direction(self.target, self.client)]
        port.submit(unio.Connect(self.target, address))

    def completed(self, operation: unio.Operation, transferred: int, error: OSError | None) -> None:
        direction = operation.state
        match operation:
            case _ if error or self.client.closed:
                self.close()
            case unio.Connect():
                for each in self.directions:
                    self.port.submit(each.recv)
            case unio.Recv() if transferred:
                direction.send.buffer = direction.buffer[:transferred]
                self.port.submit(direction.send)
            case unio.Send():
                self.port.submit(direction.recv)
            case unio.Recv():
                self.port.submit(direction.shutdown)
            case unio.Shutdown():
                self.directions.remove(direction)
                if not self.directions:
                    self.close()

    def close(self) -> None:
        self.client.close()
        self.target.close()


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
                            try:
                                Link(port, operation.socket, socket.socket(family), address)
                            except OSError:  # no descriptor is left for the second connection
                                operation.socket.close()
                        port.submit(operation)
                    case _:
                        key.completed(operation, transferred, error)


if __name__ == "__main__":
    main()
