"""Which form of what is in two the loop has: that in C, where there is one, or that in Python.

It is to this package what :mod:`unio.backends.common.accelerator` is to the rest. The C form derives from classes of
asyncio's, and needs to know where these have their slots.
"""

from __future__ import annotations

import asyncio
from asyncio import transports
from asyncio.base_events import BaseEventLoop
from typing import TYPE_CHECKING

from unio.backends.common.accelerator import core, has_fast_path
from unio.operations import Recv, Send

if TYPE_CHECKING:
    from unio.completion import Completion


def nothing(_: Completion) -> None:
    """What a packet is that only ends a wait."""


is_in_c = has_fast_path and core.know_handles(asyncio.Handle, asyncio.TimerHandle)
"""Whether the turns of a loop are C's, and the streams with them."""

_stream_state = core.know_transports(transports._FlowControlMixin) if is_in_c else None

if TYPE_CHECKING or not is_in_c or _stream_state is None:
    from unio.asyncio.stream_state import StreamState as StreamState  # noqa: PLC0414
    from unio.asyncio.turns_state import TurnsState as TurnsState  # noqa: PLC0414
else:
    core.know_turns(nothing, BaseEventLoop.create_task, asyncio.Task, Recv, Send)

    StreamState = _stream_state

    class TurnsState(core.TurnsState, BaseEventLoop):
        """The turns of a loop: callbacks, timers, and the completions of its port."""
