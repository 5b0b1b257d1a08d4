"""Copy a file, with several reads and writes in flight. The destination must not exist yet."""

import argparse
import itertools
import sys
from collections.abc import Iterator

import unio

PIECE_SIZE = 256 * 1024  # bytes
PIECES = 8  # in flight at once


async def copy_pieces(source: unio.Handle, destination: unio.Handle, offsets: Iterator[int]) -> int:
    """Copy one piece after the other, each at the next of the offsets; returns how many bytes."""
    buffer = memoryview(bytearray(PIECE_SIZE))
    read, write = unio.Read(source, buffer, 0), unio.Write(destination, b"", 0)
    copied = 0
    while True:
        read.offset = write.offset = next(offsets)
        await read
        if not read.transferred:  # the file ends before this piece
            return copied
        write.buffer = buffer[: read.transferred]
        copied += (await write).transferred


async def copy(port: unio.Port, source: str, destination: str) -> None:
    """Copy the file, bring it to the disk, say how large it was, and end the program."""
    try:
        # Closing a handle waits for the file operations that still run, and then closes the file.
        with port.associate(unio.open(source)) as reading, port.associate(unio.open(destination, "xb")) as writing:
            offsets = itertools.count(0, PIECE_SIZE)
            tasks = [port.start(copy_pieces(reading, writing, offsets)) for _ in range(PIECES)]
            copied = sum([await task for task in tasks])
            await unio.Flush(writing)
    except (OSError, unio.AssociationError) as error:
        sys.exit(f"copyfile: {error}")
    print(copied, "bytes")
    port.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("destination")
    options = parser.parse_args()
    with unio.Port() as port:
        port.start(copy(port, options.source, options.destination))
        port.run()


if __name__ == "__main__":
    main()
