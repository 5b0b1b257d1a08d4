"""Compiles the double of kqueue(2), once for each state of its source; as a script, prints the path of the library."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("kqueue.c")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unio" / "kqueue-double"
"""The user's own, and no folder for all, where somebody else could leave a library under the name that is loaded."""
OPTIONS = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-pthread"]
OPTIONS += ["-Wl,-z,nodelete"]  # it stays loaded to the very end: daemon threads sleep in it while Python lets go of it


def compiler() -> list[str] | None:
    """The system's C compiler, or the one that comes from PyPI as ziglang, where it is installed."""
    if shutil.which("cc"):
        return ["cc"]
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else None


def unavailable() -> str | None:
    """Why the double can't be built here, or None."""
    if sys.platform != "linux":
        return "the double of kqueue is for Linux"
    return None if compiler() else "the double of kqueue needs a C compiler: cc, or PyPI's ziglang"


def library(*options: str) -> str:
    """The path of the shared library, compiled if it isn't there; *options* are the compiler's."""
    if reason := unavailable():
        raise RuntimeError(reason)
    command = [*(compiler() or []), *OPTIONS, *options]
    mark = hashlib.sha256(" ".join(command).encode() + SOURCE.read_bytes()).hexdigest()[:16]
    made = CACHE / f"kqueue-{mark}.so"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = CACHE / f"{os.getpid()}.so"  # another process may be compiling it too
        subprocess.run([*command, "-shared", "-o", str(unfinished), str(SOURCE)], check=True)
        unfinished.rename(made)
    return str(made)


if __name__ == "__main__":
    sys.stdout.write(library(*sys.argv[1:]) + "\n")
