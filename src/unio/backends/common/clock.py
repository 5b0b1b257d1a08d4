"""The time that ports go by, in seconds: the one door to it, for deadlines, rests and the time-outs of waits.

It knows nothing of what is timed. C has the same behind one function, ``monotonic`` of ``clock.h``. What is
not a port's time but the machine's stays out: for how long a thread has stood still, or the kernel has not answered.
"""

from __future__ import annotations

from time import monotonic as now

__all__ = ["now"]
