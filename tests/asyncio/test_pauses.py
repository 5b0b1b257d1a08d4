"""Reading that is paused and resumed just as something comes: what has come is handed over, once and in its order."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import support
from patience import PATIENCE

ROUNDS = 20


class Counted(asyncio.Protocol):
    """Keeps what it hears; who comes first has the other one read on."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.other: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        assert data
        self.received += data
        if self.other is not None:
            self.other.resume_reading()

    def eof_received(self) -> None:
        self.ended = True


async def connected(sock):
    return await asyncio.get_running_loop().create_connection(Counted, sock=sock)


async def until(protocol: Counted, count: int) -> None:
    while len(protocol.received) < count and not protocol.ended:  # noqa: ASYNC110 - it is bounded by the fixture
        await asyncio.sleep(0)


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_who_resumes_reading_in_the_turn_in_which_something_comes_gets_it(run, pair, turns: int) -> None:
    near, far = pair

    async def main() -> None:
        transport, protocol = await connected(near)
        for number in range(ROUNDS):
            transport.pause_reading()
            await asyncio.sleep(0)
            far.send(b"some")
            for _ in range(turns):
                await asyncio.sleep(0)
            transport.resume_reading()
            await until(protocol, 4 * (number + 1))
            assert protocol.received == b"some" * (number + 1)
            assert not protocol.ended
        transport.abort()

    run(main())


@pytest.mark.parametrize("first", [0, 1])
def test_who_is_resumed_by_what_came_on_another_connection_at_the_same_time_loses_nothing(run, first: int) -> None:
    async def main() -> None:
        with contextlib.ExitStack() as stack:
            pairs = [tuple(map(stack.enter_context, support.tcp_pair())) for _ in range(2)]
            ends = [await connected(near) for near, _ in pairs]
            (_, resuming), (paused, behind) = ends[first], ends[1 - first]
            resuming.other = paused
            for number in range(ROUNDS):
                paused.pause_reading()
                await asyncio.sleep(0)
                for _, far in pairs:
                    far.send(b"some")
                await until(behind, 4 * (number + 1))
                await until(resuming, 4 * (number + 1))
                assert behind.received == resuming.received == b"some" * (number + 1)
                assert not behind.ended
            for transport, _ in ends:
                transport.abort()

    run(main())


def test_what_is_written_while_a_send_has_just_ended_leaves_behind_it(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        transport, _ = await connected(near)
        for number in range(ROUNDS):
            transport.write(b"%04d" % number)
            for _ in range(number % 3):
                await asyncio.sleep(0)
            transport.write(b"-")
        transport.close()
        far.settimeout(PATIENCE)
        sent = b"".join([b"%04d-" % number for number in range(ROUNDS)])
        received = bytearray()
        while len(received) < len(sent):
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                far.setblocking(False)
                received += far.recv(100)
        assert received == sent

    run(main())
