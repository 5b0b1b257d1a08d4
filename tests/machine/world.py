"""A model of what a port promises, checked against real sockets, pipes and files.

A :class:`World` is a port with everything that can be done to it. Its subjects (streams, a listener, datagrams, files,
timers) submit operations, play the peers at the other ends, and compare each completion with what they know:

- each submit leads to exactly one completion, whose error is one that what happened can explain;
- bytes are coded by their position in the stream, so that a lost, doubled or misplaced one is seen; whatever a send
  reported as transferred is what its peer receives, also where it was cancelled half-way;
- what can complete does: :meth:`World.settle` fails when something that owes a completion does not deliver it.

The state machine and the soak drive the same model: the one to find a short example, the other to go on for long.
Subjects may be used by several threads. Each has a lock, so that the model knows the order of its submissions; waiting
takes no lock.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from descriptors import open_handles
from machine.files import File
from machine.pattern import PERIOD, _twice
from machine.streams import LOCAL, PIPE_IN, PIPE_OUT, TCP, Stream
from machine.subject import Subject, Submission, Violation, check
from machine.timers import Timers
from patience import PATIENCE, happened
from platforms import WINDOWS

import unio

if sys.platform == "linux":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable


FEW = 50
"""A port with more handles than these looks only from time to time whether one was closed behind its back."""


@dataclass(slots=True, eq=False)
class Packet:
    """What is posted."""

    poster: int
    number: int


class World:
    """A port, its subjects and its posts.

    With *ordered* a single thread waits, and completions must come in the order in which they were queued.
    """

    def __init__(self, *, backend: str | None = None, ordered: bool = True) -> None:
        self.ordered = ordered
        self.lock = threading.RLock()
        self.counts: collections.Counter[str] = collections.Counter()
        self.subjects: list[Subject] = []
        self.accepted: list[Stream] = []
        self._starts = itertools.count(1)
        self._packets = itertools.count(1)
        self._posted: dict[int, dict[Packet, None]] = collections.defaultdict(dict)  # by poster, in their order
        self._closed_plainly: list[Subject] = []
        self._connecting = 0
        self._met: dict[Any, socket.socket] = {}
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            # On Windows a file that is open somewhere can't be removed.
            temporary = tempfile.TemporaryDirectory(prefix="unio-model-", ignore_cleanup_errors=sys.platform == "win32")
            self.directory = Path(stack.enter_context(temporary))
            self.file = stack.enter_context(self._pattern_file())
            self.meeting = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=256))
            self.meeting.setblocking(False)
            refusing = stack.enter_context(socket.socket())  # bound and not listening, so that it refuses
            refusing.bind(("127.0.0.1", 0))
            self.nobody = refusing.getsockname()
            self.port = stack.enter_context(unio.Port(backend=backend))  # last, so that it is closed first
            self.timers = Timers(self)
            self._resources = stack.pop_all()

    def _pattern_file(self) -> Any:
        path = self.directory / "pattern"
        path.write_bytes(_twice[:PERIOD])
        return path.open("rb", buffering=0)

    def add(self, subject: Subject) -> None:
        with self.lock:
            self.subjects.append(subject)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def next_start(self) -> int:
        """Where in the pattern another piece of data starts, away from all others."""
        return next(self._starts) * 104_729

    # New subjects

    def new_stream(self, kind: str, *, skip: bool = False, small: bool = False) -> Stream:
        """A connected stream; *small* makes its buffers in the kernel so, that sends have to wait."""
        ours: Any
        peer: Any
        if kind in (PIPE_IN, PIPE_OUT):
            reader, writer = unio.pipe()
            ours, peer = (reader, writer) if kind == PIPE_IN else (writer, reader)
            os.set_blocking(peer.fileno(), False)
            if small and sys.platform == "linux":
                fcntl.fcntl(peer, fcntl.F_SETPIPE_SZ, 4096)
            return Stream(self, ours, peer, kind, skip=skip)
        if kind == LOCAL:
            ours, peer = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                ours = socket.create_connection(listening.getsockname(), PATIENCE)
                peer, _ = listening.accept()
        for sock in ours, peer:
            sock.setblocking(False)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return Stream(self, ours, peer, kind, skip=skip)

    def new_connection(self, *, refused: bool = False, timeout: float | None = None) -> Stream:
        """A stream that connects through the port."""
        stream = Stream(self, socket.socket(), None, TCP)
        stream.connect(self.nobody if refused else self.meeting.getsockname(), timeout)
        return stream

    def connecting(self, change: int) -> None:
        with self.lock:
            self._connecting += change
            if self._connecting == 0:
                self._meet()
                for peer in self._met.values():  # of connects that were cancelled
                    peer.close()
                self._met.clear()

    def _meet(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                peer, address = self.meeting.accept()
                peer.setblocking(False)
                self._met[address] = peer

    def peer_of(self, address: Any) -> socket.socket:
        """The other end of a connection that has just been made."""
        with self.lock:
            if address not in self._met:
                self._meet()
            peer = self._met.pop(address, None)
            check(peer is not None, "connected, and nobody is there:", address)
            assert peer is not None
            return peer

    def take_accepted(self) -> list[Stream]:
        """The streams that listeners have accepted since this was called last."""
        with self.lock:
            accepted, self.accepted = self.accepted, []
            return accepted

    # Posts and waits

    def post(self, poster: int = 0) -> None:
        packet = Packet(poster, next(self._packets))
        with self.lock:
            self._posted[poster][packet] = None
        self.port.post(self, packet, packet.number)
        self.count("posted")

    def wait(self, timeout: float = 0, limit: int = 64) -> int:
        """Wait, check what came, and return how many there were."""
        plainly, self._closed_plainly = self._closed_plainly, []
        start = time.monotonic()
        completions = self.port.wait(timeout, limit)
        took = time.monotonic() - start
        check(len(completions) <= limit, len(completions), "completions for a limit of", limit)
        check(completions or took >= timeout, "nothing after", took, "seconds instead of", timeout)
        if completions:
            happened()
        latest: dict[int, int] = {}
        for completion in completions:
            self._take(completion, latest)
        for subject in plainly:
            self._check_closed_plainly(subject, looked=not completions and len(self.subjects) <= FEW)
        return len(completions)

    def _take(self, completion: unio.Completion, latest: dict[int, int]) -> None:
        self.count("completed")
        key, operation, transferred, error = completion
        if key is self:
            self._take_packet(operation, transferred, error, latest)
            return
        submission = operation.state
        with submission.subject.lock:
            check(key is submission.subject, "completed with another key:", submission)
            submission.subject.end(submission, transferred, error)

    def _take_packet(self, packet: Packet, transferred: int, error: object, latest: dict[int, int]) -> None:
        check(error is None and transferred == packet.number, "a packet was changed:", packet, transferred, error)
        with self.lock:
            posted = self._posted[packet.poster]
            if packet not in posted:
                self.count("doubled")
                raise Violation(f"posted once and delivered twice: {packet}")
            check(not self.ordered or packet is next(iter(posted)), "a packet overtook another:", packet)
            del posted[packet]
        check(packet.number > latest.get(packet.poster, 0), "packets of one batch out of order:", packet)
        latest[packet.poster] = packet.number

    def closed_plainly(self, subject: Subject) -> None:
        if self.ordered:
            self._closed_plainly.append(subject)

    def _check_closed_plainly(self, subject: Subject, *, looked: bool) -> None:
        """A wait with nothing else to return has ended what was in flight, but for what a thread does to a file."""
        if not looked:
            self._closed_plainly.append(subject)
        elif not isinstance(subject, File):
            check(not subject.pending, "closed plainly, and after a wait still pending:", list(subject.pending))

    # Ends

    def sweep(self) -> None:
        """Retire what is closed and has nothing pending."""
        with self.lock:
            ended = [each for each in self.subjects if each.closed and not each.pending]
            self.subjects = [each for each in self.subjects if each not in ended]
        for subject in ended:
            try:
                subject.retire()
            except Violation:
                subject.abandon()
                raise

    def _owed(self) -> list[Submission]:
        return [submission for subject in self._all() for submission in subject.owes()]

    def _all(self) -> list[Subject]:
        with self.lock:
            return list(self.subjects)

    def _packets_pending(self) -> int:
        with self.lock:
            return sum(len(packets) for packets in self._posted.values())

    def settle(self) -> None:
        """Wait until everything has completed that can without more being done, with the peers reading."""
        deadline = time.monotonic() + PATIENCE
        progress = False
        while (owed := self._owed()) or self._packets_pending():
            drained = [subject.peer_drains() for subject in self._all()]
            progress = self.wait(0 if progress else 0.02) > 0 or any(drained)
            if progress:
                deadline = time.monotonic() + PATIENCE
            check(time.monotonic() < deadline, self._packets_pending(), "packets and these do not complete:", owed)
        self.sweep()

    def close_all(self) -> None:
        """Close all handles; everything in flight must complete, and then nothing may be left."""
        self.timers.close()
        while subjects := [each for each in self._all() if each is not self.timers]:
            for subject in subjects:
                subject.close()
            self.settle()  # an accept that won against its cancel makes another one
        self.settle()
        check(self.lost() == 0, "never completed:", list(self.timers.pending), self._packets_pending(), "packets")
        check(self.port.wait(0) == [], "a completion of nobody's")

    def end(self) -> None:
        """Close all handles, then the port."""
        self.close_all()
        self.close()

    def lost(self) -> int:
        """How many submissions and packets have not completed."""
        with self.lock:
            return sum(len(each.pending) for each in self.subjects) + self._packets_pending()

    def end_abruptly(self) -> None:
        """Close the port with everything in flight, then the objects, which live on."""
        self.port.close()
        for call in (lambda: self.port.wait(0), lambda: self.port.post(None), lambda: self.timers.start(0)):
            check(_raises_port_closed(call), "a closed port was usable")
        self.close()

    def close(self) -> None:
        """Let go of everything, whatever state it is in."""
        self._resources.close()
        for peer in self._met.values():
            peer.close()
        for subject in self.subjects:
            subject.abandon()
        self.subjects.clear()


def _raises_port_closed(call: Callable[[], object]) -> bool:
    try:
        call()
    except unio.PortClosed:
        return True
    return False


def handles_warm(backend: str | None) -> int:
    """How many descriptors or handles are open, with those that the system makes at some first use and keeps."""
    World(backend=backend).end()
    return open_handles()


def handles_settle(before: int) -> int:
    """How many descriptors or handles are open, once threads have let go of theirs: of files, or of themselves."""
    deadline = time.monotonic() + PATIENCE
    while not handles_agree(before, count := open_handles()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return count


def handles_agree(before: int, after: int) -> bool:
    """Whether all that was opened was closed, and nothing else.

    On Windows there may be fewer: a thread of the system's own that has watched processes ends, with its handle, some
    seconds after the last of them.
    """
    return after == before or (WINDOWS and after < before)
