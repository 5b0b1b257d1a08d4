"""Programs in a process of their own, which the system forbids something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from patience import PROGRAM

import unio

SOURCE = str(Path(unio.__file__).parent.parent)

# Lets the kernel answer a system call with an error, as containers do: a filter of system calls (seccomp(2)).
# Arguments: the numbers of the call and of the error.
FORBID = """
import ctypes, struct, sys
call, number = map(int, sys.argv[1:3])
filter = b"".join(struct.pack("HBBI", *step) for step in (
    (0x20, 0, 0, 0),                     # load the number of the system call
    (0x15, 0, 1, call),                  # is it this one?
    (0x06, 0, 0, 0x00050000 | number),   # then fail with this error
    (0x06, 0, 0, 0x7FFF0000),            # else allow it
))
room = ctypes.create_string_buffer(filter, len(filter))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(filter) // 8, ctypes.addressof(room))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0           # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
sys.argv = ["unio", *sys.argv[3:]]
"""


def ended_script(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, in which a warning is an error, until it has ended."""
    environment = {name: value for name, value in os.environ.items() if name != unio.backends.VARIABLE}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [SOURCE, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-W", "error", "-c", source, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROGRAM, check=False)


def script(source: str, *arguments: str, status: int = 0) -> str:
    """Run such a program; returns what it printed."""
    ended = ended_script(source, *arguments)
    assert ended.returncode == status, ended.stderr
    return ended.stdout
