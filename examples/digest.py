"""A hashing server: each client gets the SHA-256 of what it has sent, computed in the threads of a pool."""

import argparse
import hashlib
import signal
import socket

import unio

BUFFER_SIZE = 64 * 1024  # bytes, per client


class Client:
    """One client. It has one operation in flight, so that one thread at a time works on it, and needs no lock."""

    def __init__(self, port: unio.Port, sock: socket.socket) -> None:
        self.port = port
        self.handle = port.associate(sock, key=self)
        self.hash = hashlib.sha256()
        self.buffer = memoryview(bytearray(BUFFER_SIZE))
        self.recv = unio.Recv(self.handle, self.buffer)
        port.submit(self.recv)

    def completed(self, operation: unio.Operation, transferred: int, error: OSError | None) -> None:
        if error or operation is not self.recv:  # it is gone, or has its answer
            self.handle.close()
        elif transferred:
            self.hash.update(self.buffer[:transferred])  # meanwhile other threads compute for other clients
            self.port.submit(self.recv)
        else:  # it has sent everything
            self.port.submit(unio.Send(self.handle, f"{self.hash.hexdigest()}\n".encode()))


def serve(port: unio.Port, listening: socket.socket) -> None:
    def handle(completion: unio.Completion) -> None:
        key, operation, transferred, error = completion
        if isinstance(operation, unio.Accept):
            sock = operation.socket
            port.submit(operation)  # from here on another thread may have the next client in it
            if not error:
                Client(port, sock)
        else:
            key.completed(operation, transferred, error)

    port.submit(unio.Accept(port.associate(listening)))
    with unio.Pool(port, handle, grace=0) as pool:  # no grace: the accept is always in flight
        signal.signal(signal.SIGINT, lambda *_: pool.shutdown(wait=False))
        print("listening on {}:{}".format(*listening.getsockname()), f"({port.backend})", flush=True)
        pool.join()


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
        serve(port, listening)


if __name__ == "__main__":
    main()
