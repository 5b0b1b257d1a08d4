"""The time that ports go by: one door to it, which deadlines, time-outs and rests share.

It knows nothing of what is timed. C has the same in one function, ``monotonic`` of ``completion_queue.c``.
"""

from __future__ import annotations

from time import monotonic as now

__all__ = ["now"]
