"""One thread hands packets to another: ``posts.py HOW``.

HOW is unio (post and wait), queue (queue.SimpleQueue), trio (run_sync_soon), or a loop whose call_soon_threadsafe is
used: asyncio, uvloop, blazio, zloop, rloop. At most WINDOW packets are under way, as in a pool whose queue is bounded.
"""

from __future__ import annotations

import importlib
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from protocol import serve

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 256


class Flow:
    """Tells the sender how many packets it may send: as many as came."""

    def __init__(self) -> None:
        self.room = threading.Semaphore(WINDOW)

    def arrive(self, count: int = 1) -> None:
        self.room.release(count)


def posting(post: Callable[[], Any], flow: Flow) -> Callable[[float], int]:
    def work(seconds: float) -> int:
        end = time.monotonic() + seconds
        sent = 0
        while time.monotonic() < end:
            for _ in range(64):
                flow.room.acquire()
                post()
            sent += 64
        for _ in range(WINDOW):  # all of the room is back: all have come
            flow.room.acquire()
        flow.room.release(WINDOW)
        return sent

    return work


def over_unio(flow: Flow) -> Callable[[], Any]:
    import unio  # noqa: PLC0415 - each way imports what it needs alone

    port = unio.Port()

    def drain() -> None:
        while True:
            flow.arrive(len(port.wait()))

    threading.Thread(target=drain, daemon=True).start()
    return lambda: port.post(None)


def over_queue(flow: Flow) -> Callable[[], Any]:
    packets: queue.SimpleQueue[None] = queue.SimpleQueue()

    def drain() -> None:
        while True:
            packets.get()
            flow.arrive()

    threading.Thread(target=drain, daemon=True).start()
    return lambda: packets.put(None)


def over_loop(name: str, flow: Flow) -> Callable[[], Any]:
    loop = importlib.import_module(name).new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return lambda: loop.call_soon_threadsafe(flow.arrive)


def over_trio(flow: Flow) -> Callable[[], Any]:
    import trio  # noqa: PLC0415 - each way imports what it needs alone

    tokens: queue.SimpleQueue[trio.lowlevel.TrioToken] = queue.SimpleQueue()

    async def run() -> None:
        tokens.put(trio.lowlevel.current_trio_token())
        await trio.sleep_forever()

    threading.Thread(target=trio.run, args=(run,), daemon=True).start()
    token = tokens.get()
    return lambda: token.run_sync_soon(flow.arrive)


def main() -> None:
    how, flow = sys.argv[1], Flow()
    ways = {"unio": over_unio, "queue": over_queue, "trio": over_trio}
    post = ways[how](flow) if how in ways else over_loop(how, flow)
    serve(posting(post, flow))


if __name__ == "__main__":
    main()
