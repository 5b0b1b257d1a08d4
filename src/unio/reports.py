"""What becomes of an exception that a handler or a task has raised, and that has no caller to go to."""

from __future__ import annotations

import threading

from unio.errors import shown
from unio.operations import Operation

TYPE_CHECKING = False  # as typing has it, which costs an import
if TYPE_CHECKING:
    from unio.completion import Completion


def report(error: BaseException, note: str) -> None:
    """Report it the way that the end of a thread by it would be."""
    try:
        error.add_note(note)
        if isinstance(error, SystemExit):  # the hook would pass over it without a word
            problem = RuntimeError(
                "SystemExit ends a program in its main thread only, and no thread that handles others"
            )
            problem.__cause__, error = error, problem
        arguments = (type(error), error, error.__traceback__, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(arguments))
    except BaseException:  # noqa: BLE001 - a fault of the hook, or of the error: it must not cost a thread
        import traceback  # noqa: PLC0415 - it is seldom needed, and large

        traceback.print_exc()


def ends_program(error: BaseException) -> bool:
    """Whether it is to end the program, which it does from the main thread alone."""
    return isinstance(error, (KeyboardInterrupt, SystemExit)) and threading.current_thread() is threading.main_thread()


def described(completion: Completion) -> str:
    """A completion, without the reprs of what is the program's own."""
    key, operation, transferred, error = completion
    what = Operation.__repr__(operation) if isinstance(operation, Operation) else shown(operation)
    return f"Completion(key={shown(key)}, operation={what}, transferred={shown(transferred)}, error={error!r})"
