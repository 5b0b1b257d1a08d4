"""A port under random submits, cancels, closes, posts and peers, in an order that hypothesis looks for.

The profile of the environment variable UNIO_PROFILE decides how long: ``machine`` (the default) or ``soak``.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from descriptors import open_handles
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule, run_state_machine_as_test
from machine.datagrams import Datagrams
from machine.files import File
from machine.listeners import Listener
from machine.streams import STREAMS, Stream
from machine.subject import Subject, check
from machine.world import World, handles_agree, handles_settle, handles_warm

import unio

settings.register_profile(
    "machine",
    max_examples=200,
    stateful_step_count=80,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("soak", settings.get_profile("machine"), max_examples=5000, stateful_step_count=200)

TIMEOUTS = st.sampled_from([None, None, None, 0, 0.001, 60])
RECEIVE_SIZES = st.sampled_from([(100,), (0,), (1,), (4096,), (65536,), (3, 0, 500), (1, 1, 5000), (0, 0)])
SEND_SIZES = st.sampled_from([(100,), (1,), (0,), (5000,), (70_000,), (1_000_000,), (3, 0, 500), (9, 100_000, 1)])
FILE_SIZES = st.sampled_from([(100,), (0,), (4096,), (9000,), (100, 0, 5000)])
PEER_SIZES = st.sampled_from([1, 100, 5000, 200_000])
DATAGRAM_SIZES = st.sampled_from([100, 0, 1, 1400, 4000])
OFFSETS = st.integers(0, File.BLOCK * (File.BLOCKS + 1))
INDICES = st.integers(0, 15)
READINESS = st.sampled_from(
    [unio.Readiness.READABLE, unio.Readiness.WRITABLE, unio.Readiness.READABLE | unio.Readiness.WRITABLE]
)

Action = tuple[Any, ...]
"""The name of a subject's method, and its arguments."""


def actions(**methods: tuple[st.SearchStrategy[Any], ...]) -> st.SearchStrategy[list[Action]]:
    """Several things to do with a subject: more of them in one step find more than one in each."""
    each = [st.tuples(st.just(name), *arguments) for name, arguments in methods.items()]
    return st.lists(st.one_of(st.just(("wait",)), *each), min_size=4, max_size=20)


STREAM_ACTIONS = actions(
    receive=(RECEIVE_SIZES, TIMEOUTS),
    receive_many=(st.just(40), RECEIVE_SIZES),
    send=(SEND_SIZES, TIMEOUTS),
    send_file=(st.sampled_from([0, 100, 5000, 500_000]), TIMEOUTS),
    poll=(READINESS, TIMEOUTS),
    cancel=(INDICES,),
    peer_sends=(PEER_SIZES,),
    peer_receives=(PEER_SIZES,),
)
LISTENER_ACTIONS = actions(
    accept=(TIMEOUTS,),
    cancel=(INDICES,),
    peer_connects=(),
    peer_leaves=(INDICES, st.booleans()),
)
DATAGRAM_ACTIONS = actions(
    receive=(st.tuples(DATAGRAM_SIZES), TIMEOUTS),
    send=(DATAGRAM_SIZES, TIMEOUTS),
    send_to_nobody=(),
    cancel=(INDICES,),
    peer_sends=(DATAGRAM_SIZES,),
)
FILE_ACTIONS = actions(
    read=(OFFSETS, FILE_SIZES, TIMEOUTS),
    write=(OFFSETS, FILE_SIZES, TIMEOUTS),
    flush=(),
    cancel=(INDICES,),
)
TIMER_ACTIONS = actions(start=(st.sampled_from([0, 0.001, 0.003, 60]), TIMEOUTS), cancel=(INDICES,))
ENDS = st.sampled_from(
    [("shut", unio.Shutdown), ("shut", unio.Disconnect), ("peer_half_closes",), ("peer_closes",), ("peer_resets",)]
)
DISTURBANCES = st.sampled_from(["cancel_all", "cancel_idle", "duplicate_descriptor", "close", "close_plainly"])


class PortMachine(RuleBasedStateMachine):
    """Each rule is something that a caller or a peer may do at any time; the model checks what follows."""

    backend: str

    streams = Bundle("streams")
    others = Bundle("others")

    def __init__(self) -> None:
        super().__init__()
        self.handles = open_handles()
        self.world = World(backend=self.backend)
        self.abrupt = False

    # What there is

    @initialize(target=streams, kinds=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=4), abrupt=st.booleans())
    def begin(self, *, kinds: list[str], abrupt: bool) -> object:
        self.abrupt = abrupt
        return multiple(*[self.world.new_stream(kind) for kind in kinds])

    @rule(target=streams, kind=st.sampled_from(STREAMS), skip=st.booleans(), small=st.booleans())
    def make_stream(self, *, kind: str, skip: bool, small: bool) -> Stream:
        return self.world.new_stream(kind, skip=skip, small=small)

    @rule(target=streams, refused=st.booleans(), timeout=TIMEOUTS)
    def connect(self, *, refused: bool, timeout: float | None) -> Stream:
        return self.world.new_connection(refused=refused, timeout=timeout)

    @rule(target=others, kind=st.sampled_from([Listener, Datagrams, File]))
    def make_other(self, kind: type[Listener | Datagrams | File]) -> Listener | Datagrams | File:
        return kind(self.world)

    # What is done with it

    def perform(self, subject: Subject, actions: list[Action]) -> None:
        """Do one after the other."""
        for name, *arguments in actions:
            if name == "wait":
                self.world.wait()
            else:
                getattr(subject, name)(*arguments)

    @rule(stream=streams, actions=STREAM_ACTIONS)
    def use_stream(self, stream: Stream, actions: list[Action]) -> None:
        self.perform(stream, actions)

    @rule(index=INDICES, actions=STREAM_ACTIONS)
    def use_accepted(self, index: int, actions: list[Action]) -> None:
        # No bundle has these streams: how many there are depends on time, and hypothesis must not see that.
        accepted = self.world.accepted
        if accepted:
            self.perform(accepted[index % len(accepted)], actions)

    @rule(other=others, data=st.data())
    def use_other(self, other: Listener | Datagrams | File, data: st.DataObject) -> None:
        strategy = {Listener: LISTENER_ACTIONS, Datagrams: DATAGRAM_ACTIONS, File: FILE_ACTIONS}[type(other)]
        self.perform(other, data.draw(strategy))

    @rule(actions=TIMER_ACTIONS)
    def use_timers(self, actions: list[Action]) -> None:
        self.perform(self.world.timers, actions)

    @rule(count=st.integers(1, 5))
    def post(self, count: int) -> None:
        for _ in range(count):
            self.world.post()

    @rule(stream=streams, end=ENDS, actions=STREAM_ACTIONS)
    def end_stream(self, stream: Stream, end: Action, actions: list[Action]) -> None:
        """One of the ends ends something, and the other may go on for a while."""
        self.perform(stream, [end, *actions])

    @rule(subject=st.one_of(streams, others), how=DISTURBANCES)
    def disturb(self, subject: Subject, how: str) -> None:
        getattr(subject, how)()

    @rule(
        target=streams, stream=streams, how=st.sampled_from(["close", "close_plainly"]), kind=st.sampled_from(STREAMS)
    )
    def replace(self, stream: Stream, how: str, kind: str) -> Stream:
        """Close a stream and open another, which gets its number while operations of the old one are queued."""
        getattr(stream, how)()
        return self.world.new_stream(kind)

    # What comes of it

    @rule(timeout=st.sampled_from([0, 0.002]), limit=st.sampled_from([64, 1, 3]))
    def wait(self, timeout: float, limit: int) -> None:
        self.world.wait(timeout, limit)
        self.world.sweep()

    @rule()
    def settle(self) -> None:
        self.world.settle()

    def teardown(self) -> None:
        try:
            self.world.settle()
            self.world.end_abruptly() if self.abrupt else self.world.end()
        finally:
            self.world.close()
        after = handles_settle(self.handles)
        check(
            handles_agree(self.handles, after),
            after,
            "descriptors or handles are open at the end, and before it were",
            self.handles,
        )


@pytest.mark.timeout(3600)
@pytest.mark.clause("S1", "S6", "S7", "C1", "O3", "O4", "O5", "X1", "X2", "X3", "X4", "A3", "A4")
def test_anything_in_any_order(backend: str) -> None:
    machine = type("PortMachine", (PortMachine,), {"backend": backend})
    handles_warm(backend)
    run_state_machine_as_test(machine, settings=settings.get_profile(os.environ.get("UNIO_PROFILE", "machine")))
