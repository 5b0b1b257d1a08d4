"""A port under random submits, cancels, closes, posts and peers, in an order that hypothesis looks for.

The profile of the environment variable UNIO_PROFILE decides how long: ``machine`` (the default) or ``soak``.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule, run_state_machine_as_test
from machine.model import PIPE_OUT, STREAMS, TCP, Datagrams, File, Listener, Stream, World, check, descriptors_settle, open_descriptors

import unio

settings.register_profile(
    "machine",
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "soak", settings.get_profile("machine"), max_examples=5000, stateful_step_count=200
)

TIMEOUTS = st.sampled_from([None, None, None, 0, 0.001, 60])
RECEIVE_SIZES = st.sampled_from([(100,), (0,), (1,), (4096,), (65536,), (3, 0, 500), (1, 1, 5000), (0, 0)])
SEND_SIZES = st.sampled_from([(100,), (1,), (0,), (5000,), (70_000,), (1_000_000,), (3, 0, 500), (9, 100_000, 1)])
PEER_SIZES = st.sampled_from([1, 100, 5000, 200_000])
READ_SIZES = st.sampled_from([(100,), (0,), (4096,), (9000,), (100, 0, 5000)])
DATAGRAM_SIZES = st.sampled_from([100, 0, 1, 1400, 4000])
OFFSETS = st.integers(0, File.BLOCK * (File.BLOCKS + 1))
INDICES = st.integers(0, 15)
READINESS = st.sampled_from(
    [unio.Readiness.READABLE, unio.Readiness.WRITABLE, unio.Readiness.READABLE | unio.Readiness.WRITABLE]
)


class PortMachine(RuleBasedStateMachine):
    """Each rule is something that a caller or a peer may do at any time; the model checks what follows."""

    backend: str

    streams = Bundle("streams")
    listeners = Bundle("listeners")
    datagrams = Bundle("datagrams")
    files = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self.descriptors = open_descriptors()
        self.world = World(backend=self.backend)
        self.seen: list[Listener] = []
        self.abrupt = False

    # What there is

    @initialize(target=streams, kinds=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=4), abrupt=st.booleans())
    def begin(self, kinds: list[str], abrupt: bool) -> object:
        self.abrupt = abrupt
        return multiple(*[self.world.new_stream(kind) for kind in kinds])

    @rule(target=streams, kind=st.sampled_from(STREAMS), skip=st.booleans(), small=st.booleans())
    def make_stream(self, kind: str, skip: bool, small: bool) -> Stream:
        return self.world.new_stream(kind, skip=skip, small=small)

    @rule(target=streams, refused=st.booleans(), timeout=TIMEOUTS)
    def connect(self, refused: bool, timeout: float | None) -> Stream:
        return self.world.new_connection(refused=refused, timeout=timeout)

    @rule(target=listeners)
    def make_listener(self) -> Listener:
        listener = Listener(self.world)
        self.seen.append(listener)
        return listener

    @rule(target=datagrams)
    def make_datagrams(self) -> Datagrams:
        return Datagrams(self.world)

    @rule(target=files)
    def make_file(self) -> File:
        return File(self.world)

    def born(self) -> object:
        return multiple(*[stream for listener in self.seen for stream in listener.take_born()])

    # What is submitted

    @rule(stream=streams, sizes=RECEIVE_SIZES, timeout=TIMEOUTS)
    def receive(self, stream: Stream, sizes: tuple[int, ...], timeout: float | None) -> None:
        stream.receive(sizes, timeout)

    @rule(stream=streams, sizes=st.lists(RECEIVE_SIZES, min_size=2, max_size=4))
    def receive_several(self, stream: Stream, sizes: list[tuple[int, ...]]) -> None:
        for each in sizes:
            stream.receive(each)

    @rule(stream=streams, sizes=SEND_SIZES, timeout=TIMEOUTS)
    def send(self, stream: Stream, sizes: tuple[int, ...], timeout: float | None) -> None:
        stream.send(sizes, timeout)

    @rule(stream=streams, sizes=st.lists(SEND_SIZES, min_size=2, max_size=4))
    def send_several(self, stream: Stream, sizes: list[tuple[int, ...]]) -> None:
        for each in sizes:
            stream.send(each)

    @rule(stream=streams, size=st.sampled_from([0, 100, 5000, 500_000]), timeout=TIMEOUTS)
    def send_file(self, stream: Stream, size: int, timeout: float | None) -> None:
        stream.send_file(size, timeout)

    @rule(stream=streams, kind=st.sampled_from([unio.Shutdown, unio.Disconnect]))
    def shut(self, stream: Stream, kind: type[unio.Shutdown | unio.Disconnect]) -> None:
        stream.shut(kind)

    @rule(stream=streams, readiness=READINESS, timeout=TIMEOUTS)
    def poll(self, stream: Stream, readiness: unio.Readiness, timeout: float | None) -> None:
        stream.poll(readiness, timeout)

    @rule(listener=listeners, timeout=TIMEOUTS)
    def accept(self, listener: Listener, timeout: float | None) -> None:
        listener.accept(timeout)

    @rule(datagrams=datagrams, size=DATAGRAM_SIZES, timeout=TIMEOUTS)
    def receive_from(self, datagrams: Datagrams, size: int, timeout: float | None) -> None:
        datagrams.receive((size // 2, size - size // 2) if size > 1000 else (size,), timeout)

    @rule(datagrams=datagrams, size=DATAGRAM_SIZES, timeout=TIMEOUTS)
    def send_to(self, datagrams: Datagrams, size: int, timeout: float | None) -> None:
        datagrams.send(size, timeout)

    @rule(datagrams=datagrams)
    def send_to_nobody(self, datagrams: Datagrams) -> None:
        datagrams.send_to_nobody()

    @rule(file=files, offset=OFFSETS, sizes=READ_SIZES, timeout=TIMEOUTS)
    def read(self, file: File, offset: int, sizes: tuple[int, ...], timeout: float | None) -> None:
        file.read(offset, sizes, timeout)

    @rule(file=files, offset=OFFSETS, sizes=READ_SIZES, timeout=TIMEOUTS)
    def write(self, file: File, offset: int, sizes: tuple[int, ...], timeout: float | None) -> None:
        file.write(offset, sizes, timeout)

    @rule(file=files)
    def flush(self, file: File) -> None:
        file.flush()

    @rule(delay=st.sampled_from([0, 0.001, 0.003, 60]), timeout=TIMEOUTS)
    def start_timer(self, delay: float, timeout: float | None) -> None:
        self.world.timers.start(delay, timeout)

    @rule(count=st.integers(1, 5))
    def post(self, count: int) -> None:
        for _ in range(count):
            self.world.post()

    # What is cancelled and closed

    @rule(subject=st.one_of(streams, listeners, datagrams, files), index=INDICES)
    def cancel(self, subject: Stream | Listener | Datagrams | File, index: int) -> None:
        subject.cancel(index)

    @rule(index=INDICES)
    def cancel_timer(self, index: int) -> None:
        self.world.timers.cancel(index)

    @rule(subject=st.one_of(streams, listeners, datagrams, files))
    def cancel_all(self, subject: Stream | Listener | Datagrams | File) -> None:
        subject.cancel_all()

    @rule(subject=st.one_of(streams, listeners, datagrams, files))
    def cancel_idle(self, subject: Stream | Listener | Datagrams | File) -> None:
        subject.cancel_idle()

    @rule(subject=st.one_of(streams, listeners, datagrams, files))
    def close(self, subject: Stream | Listener | Datagrams | File) -> None:
        subject.close()

    @rule(subject=st.one_of(streams, listeners, datagrams, files))
    def close_plainly(self, subject: Stream | Listener | Datagrams | File) -> None:
        subject.close_plainly()

    @rule(target=streams, stream=streams, kind=st.sampled_from(STREAMS), plainly=st.booleans())
    def replace(self, stream: Stream, kind: str, plainly: bool) -> Stream:
        """Close a stream and open another, which gets its number while operations of the old one are queued."""
        if plainly:
            stream.close_plainly()
        else:
            stream.close()
        return self.world.new_stream(kind)

    @rule(subject=st.one_of(streams, listeners, datagrams, files))
    def duplicate_descriptor(self, subject: Stream | Listener | Datagrams | File) -> None:
        subject.duplicate_descriptor()

    # What the peers do

    @rule(stream=streams, size=PEER_SIZES)
    def peer_sends(self, stream: Stream, size: int) -> None:
        stream.peer_sends(size)

    @rule(stream=streams, size=PEER_SIZES)
    def peer_receives(self, stream: Stream, size: int) -> None:
        stream.peer_receives(size)

    @rule(stream=streams)
    def peer_half_closes(self, stream: Stream) -> None:
        stream.peer_half_closes()

    @rule(stream=streams, reset=st.booleans())
    def peer_closes(self, stream: Stream, reset: bool) -> None:
        stream.peer_closes(reset=reset)

    @rule(listener=listeners)
    def peer_connects(self, listener: Listener) -> None:
        listener.peer_connects()

    @rule(listener=listeners, index=INDICES, reset=st.booleans())
    def peer_leaves(self, listener: Listener, index: int, reset: bool) -> None:
        listener.peer_leaves(index, reset=reset)

    @rule(datagrams=datagrams, size=DATAGRAM_SIZES)
    def peer_sends_datagram(self, datagrams: Datagrams, size: int) -> None:
        datagrams.peer_sends(size)

    # What comes of it

    @rule(target=streams, timeout=st.sampled_from([0, 0.002]), limit=st.sampled_from([64, 1, 3]))
    def wait(self, timeout: float, limit: int) -> object:
        self.world.wait(timeout, limit)
        self.world.sweep()
        return self.born()

    @rule(target=streams)
    def settle(self) -> object:
        self.world.settle()
        return self.born()

    def teardown(self) -> None:
        try:
            self.world.end_abruptly() if self.abrupt else self.world.end()
        finally:
            self.world.close()
        after = descriptors_settle(self.descriptors)
        check(after == self.descriptors, after, "descriptors are open at the end, and before it were", self.descriptors)


@pytest.mark.timeout(3600)
@pytest.mark.clause("S1", "S6", "S7", "C1", "O3", "O4", "O5", "X1", "X2", "X3", "X4", "A3", "A4")
def test_anything_in_any_order(backend: str) -> None:
    machine = type("PortMachine", (PortMachine,), {"backend": backend})
    run_state_machine_as_test(machine, settings=settings.get_profile(os.environ.get("UNIO_PROFILE", "machine")))
