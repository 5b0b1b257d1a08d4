"""Many threads on one port: no packet is lost or doubled, and no wake-up is lost, which would show as a stall."""

from __future__ import annotations

import collections
import contextlib
import itertools
import queue
import random
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from descriptors import no_more_descriptors_than, open_descriptors
from support import (
    PATIENCE,
    Background,
    bare_wait,
    batch,
    in_threads,
    inside_wait,
    noted_as_waiting,
    until,
)
from wine import has_row

import unio

MakePair = Callable[..., tuple[socket.socket, socket.socket]]

THREADS = 16
STOP = object()


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads take turns so often that they meet in the middle of things."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def joined(lists: Iterable[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(lists))


def wait_one(port: unio.Port) -> unio.Completion:
    return batch(port, limit=1)[0]


# Posts


@pytest.mark.clause("P2", "P8")
@pytest.mark.parametrize("tokens", [1, 3, THREADS])
def test_tokens_that_threads_of_one_port_hand_on_never_stop(port: unio.Port, switching: None, tokens: int) -> None:
    # With fewer tokens than threads most of these wait, and one wake-up that is lost stops a token.
    laps = 36_000 // tokens
    arrived: list[int] = []

    def hand_on(_: int) -> int:
        taken = 0
        while True:
            token, _, lap, _ = wait_one(port)
            if token is STOP:
                return taken
            taken += 1
            if lap < laps:
                port.post(token, None, lap + 1)
                continue
            arrived.append(token)
            if len(arrived) == tokens:
                for _ in range(THREADS):
                    port.post(STOP)

    for token in range(tokens):
        port.post(token, None, 1)
    assert sum(in_threads(THREADS, hand_on)) == tokens * laps
    assert port.wait(0) == []


@pytest.mark.clause("P2", "P8")
@pytest.mark.parametrize("tokens", [1, 5])
def test_tokens_that_go_round_from_port_to_port_never_stop(backend: str, tokens: int) -> None:
    # Each hop wakes another thread, so that all of them depend on a wake-up.
    rounds = 3_200 // tokens
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(unio.Port(backend=backend)) for _ in range(THREADS)]

        def hand_on(number: int) -> int:
            mine, following = ports[number], ports[(number + 1) % THREADS]
            taken = 0
            while taken < tokens * rounds:
                token, _, hops, _ = wait_one(mine)
                taken += 1
                if hops < THREADS * rounds:
                    following.post(token, None, hops + 1)
            return taken

        for token in range(tokens):
            ports[0].post(token, None, 1)
        assert in_threads(THREADS, hand_on) == [tokens * rounds] * THREADS


@pytest.mark.clause("P1", "P2", "P8")
def test_each_packet_comes_once_and_those_of_one_thread_in_order(port: unio.Port, switching: None) -> None:
    each, half = 4_000, THREADS // 2

    def post_all(poster: int) -> None:
        for count in range(each):
            port.post(poster, None, count)

    def take_all() -> list[tuple[int, int]]:
        taken: list[tuple[int, int]] = []
        while True:
            found = batch(port, limit=7)
            taken += [(packet.key, packet.transferred) for packet in found if packet.key is not STOP]
            stops = sum(packet.key is STOP for packet in found)
            for _ in range(stops - 1):
                port.post(STOP)  # those of other threads
            if stops:
                return taken

    takers = [Background(take_all) for _ in range(half)]
    in_threads(half, post_all)
    for _ in takers:
        port.post(STOP)
    results = [taker.result() for taker in takers]
    for taken in results:
        assert in_order(taken)
    assert collections.Counter(joined(results)) == {(who, count): 1 for who in range(half) for count in range(each)}


def in_order(taken: list[tuple[int, int]]) -> bool:
    """Whether the packets of each poster came in the order of their counts."""
    return sorted(taken) == sorted(taken, key=lambda packet: packet[0])


# Operations


class Takers:
    """Threads that wait on a port and report what they took."""

    def __init__(self, port: unio.Port) -> None:
        self.port = port
        self.took: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.going = threading.Event()

    def stay(self) -> None:
        """Wait for ever."""
        with contextlib.suppress(unio.PortClosed):
            while True:
                self._report(self.port.wait())

    def come_and_go(self, number: int) -> None:
        """Wait with time-outs that pass soon."""
        choice = random.Random(number)
        while not self.going.is_set():
            self._report(self.port.wait(choice.choice([0, 0.0001, 0.0005, 0.002])))

    def _report(self, batch: list[unio.Completion]) -> None:
        for completion in batch:
            self.took.put(completion.operation)


class Slot:
    """A handle that threads submit to, and that some of them close and replace.

    The peer of a *quiet* one does nothing.
    """

    def __init__(self, port: unio.Port, *, quiet: bool = False) -> None:
        self.port = port
        self.quiet = quiet
        self.lock = threading.Lock()
        self.replace()

    def replace_closed(self) -> None:
        """Put another handle in the place of one that somebody has closed."""
        with self.lock:
            if self.handle.closed:
                self.peer.close()
                self.replace()

    def replace(self) -> None:
        near, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.handle = self.port.associate(near, self)

    def close(self) -> None:
        self.handle.close()
        self.peer.close()


def operation_for(slot: Slot, choice: random.Random) -> unio.Operation:
    handle = slot.handle
    make = choice.choice(
        [
            lambda: unio.Recv(handle, bytearray(100)),
            lambda: unio.Recv(handle, bytearray(100)),
            lambda: unio.Recv(handle, bytearray(0)),
            lambda: unio.Send(handle, b"x" * 300),
            lambda: unio.Send(handle, b"x" * 300_000),
            lambda: unio.Poll(handle, unio.Readiness.READABLE),
            lambda: unio.Timer(choice.choice([0, 0.001, 60]), slot),
        ]
    )
    return make()


def disturb(slot: Slot, operation: unio.Operation, choice: random.Random, *, closes: bool) -> None:
    """Something that another thread's operations on the handle have to live with."""
    chance = choice.random()
    if chance < 0.3:
        slot.port.cancel(operation)
    elif chance < 0.4:
        slot.handle.cancel()
    elif chance < 0.45 and closes and (slot.quiet or not has_row("close-amid-retry")):
        slot.handle.close()
    elif not slot.quiet:
        with slot.lock, contextlib.suppress(OSError):  # nobody closes the peer meanwhile
            slot.peer.send(b"y" * 50) if chance < 0.8 else slot.peer.recv(1 << 20)


@pytest.mark.clause("P2", "S1", "X1", "X2", "X3")
@pytest.mark.parametrize("closes", [False, True])
def test_each_submit_completes_once_whatever_others_do_to_the_handle(
    port: unio.Port, switching: None, closes: bool
) -> None:
    slots = [Slot(port, quiet=number < 2) for number in range(6)]

    def submit(number: int) -> list[unio.Operation]:
        choice = random.Random(number)
        submitted: list[unio.Operation] = []
        for _ in range(1_500):
            slot = choice.choice(slots)
            operation = operation_for(slot, choice)
            timeout = choice.choice([None, None, 0, 0.001, 60])
            port.submit(operation, timeout)
            submitted.append(operation)
            if slot.handle.closed:
                slot.replace_closed()
            disturb(slot, choice.choice(submitted[-20:]), choice, closes=closes)
        return submitted

    def collect(_: int) -> list[Any]:
        taken: list[Any] = []
        while True:
            completion = wait_one(port)
            if completion.key is STOP:
                return taken
            assert completion.error is None or isinstance(completion.error, OSError)
            assert not completion.operation.in_flight
            taken.append(completion.operation)

    collectors = [Background(collect, number) for number in range(4)]
    submitted = joined(in_threads(8, submit))
    for slot in slots:
        slot.close()
    for operation in submitted:
        port.cancel(operation)  # the timers that would take long
    for _ in collectors:
        port.post(STOP)
    taken = joined(collector.result() for collector in collectors)
    while len(taken) < len(submitted):  # the system may still be at what was cancelled
        taken.append(wait_one(port).operation)
    assert port.wait(0) == []
    times = collections.Counter(map(id, taken))
    assert [operation for operation in submitted if times[id(operation)] != 1] == []


@pytest.mark.clause("X1", "X2")
@pytest.mark.parametrize("what", ["operation", "handle"])
def test_a_cancel_in_the_middle_of_a_submit_is_not_lost(
    port: unio.Port, switching: None, what: str, make_pair: MakePair
) -> None:
    near, peer = make_pair(local=True)
    handle = port.associate(near)
    receives = [unio.Recv(handle, bytearray(1)) for _ in range(2_000)]

    def cancel_each() -> None:
        for receive in receives:
            until(lambda receive=receive: receive.in_flight)  # its submit may not be over
            assert handle.cancel() == 1 if what == "handle" else port.cancel(receive)

    canceller = Background(cancel_each)
    for receive in receives:
        port.submit(receive)
        completion = wait_one(port)
        assert completion.operation is receive
        assert type(completion.error) is unio.Cancelled
    canceller.result()


@pytest.mark.clause("P2", "S1")
def test_an_event_in_the_middle_of_an_attempt_is_not_forgotten(
    port: unio.Port, switching: None, make_pair: MakePair
) -> None:
    near, peer = make_pair(local=True)
    receive = unio.Recv(port.associate(near), bytearray(1))
    rounds = 5_000

    def send_each() -> None:
        for number in range(rounds):
            until(lambda number=number: receive.in_flight and receive.state == number)
            peer.send(b"x")  # while the submit is trying, or after it

    takers = Takers(port)
    waiting = Background(takers.stay)  # it hears of the event, and another thread may be trying just then
    sending = Background(send_each)
    for number in range(rounds):
        receive.state = number
        port.submit(receive)
        assert takers.took.get(timeout=PATIENCE) is receive
        assert receive.error is None
    sending.result()
    port.close()
    waiting.result()


@pytest.mark.clause("S6", "S8", "X4")
def test_a_late_time_out_does_not_end_the_next_flight(port: unio.Port, switching: None, make_pair: MakePair) -> None:
    near, peer = make_pair(local=True)
    receive = unio.Recv(port.associate(near), bytearray(1))
    takers = Takers(port)
    waiting = [Background(takers.come_and_go, number) for number in range(3)]
    for _ in range(2_000):
        peer.send(b"x")
        port.submit(receive, 0)  # a race of the byte with the time-out
        assert takers.took.get(timeout=PATIENCE) is receive
        timed_out = isinstance(receive.error, TimeoutError)
        port.submit(receive)
        if not timed_out:
            peer.send(b"x")
        assert takers.took.get(timeout=PATIENCE) is receive
        assert receive.error is None
    takers.going.set()
    for thread in waiting:
        thread.result()


@pytest.mark.clause("S3", "S6")
def test_of_threads_that_submit_one_operation_one_succeeds(port: unio.Port, switching: None) -> None:
    rounds = 200
    operations = [unio.Timer(0) for _ in range(rounds)]
    together = threading.Barrier(4)

    def submit(_: int) -> int:
        accepted = 0
        for operation in operations:
            together.wait(PATIENCE)
            with contextlib.suppress(unio.InFlight):
                port.submit(operation)
                accepted += 1
        return accepted

    # Nobody waits meanwhile, so that each stays in flight.
    assert sum(in_threads(4, submit)) == rounds
    assert [wait_one(port).operation in operations for _ in range(rounds)] == [True] * rounds
    assert port.wait(0) == []


@pytest.mark.clause("A1")
def test_of_threads_that_associate_one_socket_one_succeeds(port: unio.Port, switching: None) -> None:
    rounds = 100
    pairs = [socket.socketpair() for _ in range(rounds)]
    together = threading.Barrier(4)

    def associate(_: int) -> list[unio.Handle]:
        handles = []
        for near, _peer in pairs:
            together.wait(PATIENCE)
            with contextlib.suppress(unio.AssociationError):
                handles.append(port.associate(near))
        return handles

    handles = joined(in_threads(4, associate))
    assert len(handles) == rounds
    for handle, (_, peer) in zip(handles, pairs, strict=True):
        handle.close()
        peer.close()


# Who waits


@pytest.mark.clause("P2", "P6", "S8", "O11")
@pytest.mark.parametrize("passers", [0, 3])
def test_threads_that_come_and_go_leave_nobody_asleep(port: unio.Port, make_pair: MakePair, passers: int) -> None:
    """The thread that waits in the kernel may be any of them; when its time-out passes, another must take its place."""
    near, peer = make_pair(local=True)
    handle = port.associate(near)
    receive = unio.Recv(handle, bytearray(1))
    timer = unio.Timer(0.0005)
    takers = Takers(port)
    staying = [Background(takers.stay) for _ in range(3)]
    passing = [Background(takers.come_and_go, number) for number in range(passers)]

    def cause(number: int) -> Any:
        """Bring about one packet and say which."""
        match number % 4:
            case 0:
                port.submit(receive)
                peer.send(b"x")
                return receive
            case 1:
                port.submit(timer)
                return timer
            case 2:
                port.submit(receive, 0.0005)
                return receive
            case _:
                port.post(None, number)
                return number

    for number in range(1_500):
        expected = cause(number)
        assert takers.took.get(timeout=PATIENCE) == expected
    takers.going.set()
    for thread in passing:
        thread.result()
    port.close()
    for thread in staying:
        thread.result()


@pytest.mark.clause("P2", "S8", "O11")
def test_who_has_waited_for_long_hears_of_a_new_deadline(port: unio.Port, make_pair: MakePair) -> None:
    near, _peer = make_pair(local=True)
    receive = unio.Recv(port.associate(near), bytearray(1))
    timer = unio.Timer(0.001)
    takers = Takers(port)
    waiting = [Background(takers.stay) for _ in range(2)]
    for operation, timeout in ((timer, None), (receive, 0.001), (timer, 0), (receive, 0.001)):
        with pytest.raises(queue.Empty):
            takers.took.get(timeout=0.2)  # there is nothing for so long that the leader sleeps without a limit
        port.submit(operation, timeout)
        assert takers.took.get(timeout=PATIENCE) is operation
    port.close()
    for thread in waiting:
        thread.result()


class Interrupted(BaseException):
    """What the signal handler raises, as KeyboardInterrupt is raised."""


def wait_interruptibly(port: unio.Port, armed: list[None], found: list[unio.Completion]) -> None:
    """Put what a wait returns into a list, and then disarm the signal, as one step of Python's.

    Between two steps a handler could come, and what the wait had returned would be lost.
    """
    steps = itertools.chain(map(bare_wait(port), [PATIENCE]), map(armed.__imul__, [0]))
    with noted_as_waiting():
        armed.append(None)
        found.extend(itertools.chain.from_iterable(steps))


@pytest.fixture
def interruptible() -> Iterator[tuple[signal.Signals, list[None]]]:
    """A signal that ends the wait of the main thread, once for each item of a list, and does nothing without.

    Nor in the middle of an attempt: what that has taken would be lost with it, as Port.wait says.
    """
    armed: list[None] = []

    def is_trying(frame: types.FrameType | None) -> bool:
        names = ("_attempt_direction", "_go_on", "_act_on_results")
        return frame is not None and (frame.f_code.co_name in names or is_trying(frame.f_back))

    def interrupt(_: int, frame: types.FrameType | None) -> None:
        if armed and not is_trying(frame):
            armed.pop()
            raise Interrupted

    previous = signal.signal(signal.SIGUSR1, interrupt)
    yield signal.SIGUSR1, armed
    signal.signal(signal.SIGUSR1, previous)


Cause = tuple[Callable[[], object], Callable[[], object]]
"""How a packet comes to be: what is done beforehand, and what then causes it."""


@pytest.fixture(params=["post", "receive"])
def cause(request: pytest.FixtureRequest, port: unio.Port, make_pair: MakePair) -> Cause:
    if request.param == "post":
        return lambda: None, lambda: port.post("packet")
    near, peer = make_pair(local=True)
    receive = unio.Recv(port.associate(near, "packet"), bytearray(1))
    return lambda: port.submit(receive), lambda: peer.send(b"x")


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals are not sent to threads here")
@pytest.mark.clause("P2", "L4")
@pytest.mark.parametrize("leads", ["the interrupted thread", "the other thread"])
def test_a_waiter_that_an_exception_ends_takes_nobodys_wake_up_along(
    port: unio.Port, interruptible: tuple[signal.Signals, list[None]], leads: str, cause: Cause
) -> None:
    """The signal and the packet come at once; the thread that the signal ends had no time to take the packet."""
    prepare, bring_about = cause
    number, armed = interruptible
    main = threading.main_thread()

    def wait_in_background() -> Background[unio.Completion]:
        other = Background(wait_one, port)
        inside_wait(other)
        return other

    def interrupt(other: Background[unio.Completion] | None, interrupted: threading.Event) -> unio.Completion:
        inside_wait(main)
        other = other or wait_in_background()
        assert main.ident is not None
        signal.pthread_kill(main.ident, number)
        bring_about()
        while not interrupted.wait(0.05):  # the signal came just before the call that blocks, which does not see it
            signal.pthread_kill(main.ident, number)
        return other.result()

    ended = 0
    while ended < 100:
        prepare()
        interrupted = threading.Event()
        other = wait_in_background() if leads == "the other thread" else None
        interrupting = Background(interrupt, other, interrupted)
        found: list[unio.Completion] = []
        with contextlib.suppress(Interrupted):
            wait_interruptibly(port, armed, found)
        interrupted.set()
        if found:  # the signal came in the middle of an attempt, where it does nothing, and then the packet: once more
            port.post("packet")
        assert interrupting.result().key == "packet"
        ended += not found


@pytest.mark.clause("P7")
def test_closing_a_port_in_the_middle_of_everything_wakes_everybody(backend: str, switching: None) -> None:
    before = open_descriptors()
    for _ in range(60):
        port = unio.Port(backend=backend)
        pairs = [socket.socketpair() for _ in range(3)]
        handles = [port.associate(near) for near, _ in pairs]
        begun = threading.Barrier(7)

        def keep_waiting(begun: threading.Barrier = begun, port: unio.Port = port) -> None:
            begun.wait(PATIENCE)
            while True:
                port.wait()

        def keep_working(handle: unio.Handle, begun: threading.Barrier = begun, port: unio.Port = port) -> None:
            begun.wait(PATIENCE)
            while True:
                port.submit(unio.Recv(handle, bytearray(1)), 0.001)
                port.submit(unio.Timer(0))
                port.post(None)

        threads = [Background(keep_waiting) for _ in range(3)]
        threads += [Background(keep_working, handle) for handle in handles]
        begun.wait(PATIENCE)
        port.post(None)
        port.close()
        for thread in threads:
            with pytest.raises(unio.PortClosed):
                thread.result()
        for near, peer in pairs:
            near.close()
            peer.close()
    no_more_descriptors_than(before)
