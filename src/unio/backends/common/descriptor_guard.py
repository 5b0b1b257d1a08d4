"""A guard of descriptors that any thread uses, and one closes, without a lock: none is held over a system call.

It knows numbers, and nothing of unio.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class DescriptorGuard:
    """Keeps descriptors open while threads use them; the last one inside closes them.

    ``with guard as is_open:`` and, if it is, the numbers are valid until the end of the block: nobody else has got
    them meanwhile. Who enters first shows itself and then looks whether they were closed; who closes says so first and
    then looks for somebody inside, and who leaves looks for both. Whichever comes last sees the others. So it can be
    entered in a signal handler, also in the middle of another such block of the same thread.

    *inherited* says whether a forked child has the descriptors too, and so has to close its own.
    """

    def __init__(self, *numbers: int, inherited: bool = True) -> None:
        self._numbers = list(set(numbers))
        self._inherited = inherited
        self._inside: deque[None] = deque()  # of which a few come and go without any memory, unlike of a list
        self._closed = False
        self._process = os.getpid()

    def __enter__(self) -> bool:
        self._inside.append(None)
        return not self._closed

    def __exit__(self, *_: object) -> None:
        self._inside.pop()
        if self._closed and not self._inside:
            self._close_numbers()

    def close(self) -> None:
        """Let nobody in any more, and close the descriptors as soon as nobody is inside. It never waits."""
        self._closed = True
        if self._process != os.getpid():  # those inside are threads of the parent's, which a forked child doesn't have
            self._inside.clear()
        if not self._inside:
            self._close_numbers()

    def _close_numbers(
        self, close: Callable[[int], None] = os.close, getpid: Callable[[], int] = os.getpid
    ) -> None:  # at the program's end there is no os any more
        if not self._inherited and self._process != getpid():
            self._numbers.clear()
        while self._numbers:
            try:
                number = self._numbers.pop()
            except IndexError:  # another thread was quicker
                return
            close(number)

    def __del__(self) -> None:  # nobody is inside; a signal handler that raised may have left its trace
        # The garbage collector takes the objects of a cycle in no order: one that is to come may ask once more.
        self._closed = True
        self._close_numbers()
