"""Copy a file, with several reads and writes in flight. The destination must not exist yet."""

import argparse
import contextlib
import itertools
import sys

import unio

PIECE_SIZE = 256 * 1024  # bytes
PIECES = 8  # in flight at once


class Piece:
    """A buffer, and the two operations that take turns with it."""

    def __init__(self, source: unio.Handle, destination: unio.Handle) -> None:
        self.buffer = memoryview(bytearray(PIECE_SIZE))
        self.read = unio.Read(source, self.buffer, 0, state=self)
        self.write = unio.Write(destination, b"", 0, state=self)


def copy(port: unio.Port, source: unio.Handle, destination: unio.Handle) -> int:
    """Copy the file and bring it to the disk; returns its size in bytes."""
    offsets = itertools.count(0, PIECE_SIZE)
    pieces = [Piece(source, destination) for _ in range(PIECES)]

    def read_next(piece: Piece) -> None:
        piece.read.offset = next(offsets)
        port.submit(piece.read)

    for piece in pieces:
        read_next(piece)
    copied, reading = 0, PIECES
    while reading:
        for _, operation, transferred, error in port.wait():
            if error:
                raise error
            piece = operation.state
            if operation is piece.write:
                copied += transferred
                read_next(piece)
            elif transferred:
                piece.write.buffer, piece.write.offset = piece.buffer[:transferred], piece.read.offset
                port.submit(piece.write)
            else:  # the file ends before this piece
                reading -= 1
    port.submit(unio.Flush(destination))
    [(_, _, _, error)] = port.wait()
    if error:
        raise error
    return copied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("destination")
    options = parser.parse_args()
    try:
        # Closing a handle waits for the file operations that still run, and then closes the file.
        with (
            unio.Port() as port,
            contextlib.closing(port.associate(unio.open(options.source))) as source,
            contextlib.closing(port.associate(unio.open(options.destination, "xb"))) as destination,
        ):
            print(copy(port, source, destination), "bytes")
    except (OSError, unio.AssociationError) as error:
        sys.exit(f"copyfile: {error}")


if __name__ == "__main__":
    main()
