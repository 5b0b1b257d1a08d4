"""What a finalizer has to know: whether there is still a program around it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def is_ending(is_finalizing: Callable[[], bool] = sys.is_finalizing, system: ModuleType = sys) -> bool:
    """Whether the program ends, or the subinterpreter that this is called in.

    At the end of the program Python stops the other threads wherever they are, also with a lock in hand that a
    finalizer would wait for. Then, and at the end of a subinterpreter, it takes the names out of all modules; what a
    finalizer needs it has as default values of its arguments, this function too.
    """
    return is_finalizing() or getattr(system, "meta_path", None) is None  # the first name to go, in any interpreter
