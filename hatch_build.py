"""Compiles unio._core, the part of unio that is C, where there is a compiler.

It makes unio faster on Linux, macOS and the BSDs, and is what the io_uring backend runs on. Without it unio works all
the same: where it can't be compiled, the wheel is a pure one, in which ``unio._no_core`` has the reason for ``python -m
unio doctor``. The sources are chosen for the system: epoll and io_uring are Linux', kqueue is all systems' (on Linux a
library brings it).

The environment variable ``UNIO_CORE`` can be ``required``, to have a build fail that can't compile it, or ``without``,
to leave it out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import sysconfig
import tempfile
import textwrap
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VARIABLE = "UNIO_CORE"

SYSTEMS = ("darwin", "dragonfly", "freebsd", "linux", "netbsd", "openbsd")  # sys.platform may end with a version

SOURCES = "src/core"
ON_LINUX = ("epoll.c", "ring.c", "ring_requests.c", "ring_results.c", "ring_type.c")
ELSEWHERE = ("no_ring.c",)

# The last: a thread may have a stack of 32 KiB (threading.stack_size), which Python itself needs some of.
FLAGS = ["-std=c11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wframe-larger-than=2048"]

NO_DEBUG_INFORMATION = "-Wl,-S"  # also of what the linker adds by itself, as musl's startup files

NOTE = "_no_core.py"  # what is in the place of the module


class NotCompiledError(Exception):
    """Why there is no module, in one line that doctor will show."""


class CoreHook(BuildHookInterface):  # type: ignore[type-arg]
    """The hook that pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the module before the wheel is made; an editable install gets it in the source tree."""
        if self.target_name != "wheel":
            return
        wish = wished()
        try:
            made = make_core(Path(self.root), wish)
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
        except NotCompiledError as error:
            if wish == "required":
                raise
            if not wish:
                self.app.display_warning(f"unio._core was not compiled, and unio will be slower without: {error}")
            made = write_note(str(error))
        build_data["force_include"][str(made)] = f"unio/{made.name}"
        if version == "editable":
            package = Path(self.root) / "src" / "unio"
            (package / NOTE).unlink(missing_ok=True)
            put_in_place(made, package)


def wished() -> str:
    """What the environment asks for."""
    wish = os.environ.get(VARIABLE, "")
    if wish not in {"", "required", "without"}:
        raise ValueError(f"{VARIABLE} must be 'required', 'without' or empty, not {wish!r}")
    return wish


def make_core(root: Path, wish: str) -> Path:
    """Compile the C part if this system can have it and nobody wishes otherwise; else raise NotCompiledError."""
    if not sys.platform.startswith(SYSTEMS):
        raise NotCompiledError(f"it is for Linux, macOS and the BSDs, and this is {sys.platform}")
    if wish == "without":
        raise NotCompiledError(f"this is the wheel without it ({VARIABLE}=without), which fits every system")
    debugs = re.search(r"(^|\s)-g", os.environ.get("CFLAGS", ""))  # the interpreter's own flags may have it as well
    return compile_core(root, link_flags=[] if debugs else [NO_DEBUG_INFORMATION])


def write_note(reason: str) -> Path:
    """Write the module that says why there is no C part, into a folder of its own."""
    note = Path(tempfile.mkdtemp(prefix="unio-core-")) / NOTE
    note.write_text(f'"""Why this installation has no unio._core."""\n\nWHY = {reason!r}\n', encoding="utf-8")
    return note


def put_in_place(made: Path, folder: Path) -> None:
    """Copy the module next to the rest of unio, as a new file: a process may have the former one in its memory."""
    fresh = folder / (made.name + ".new")
    shutil.copyfile(made, fresh)
    fresh.replace(folder / made.name)


def compile_core(root: Path, flags: Sequence[str] = FLAGS, link_flags: Sequence[str] = ()) -> Path:
    """Compile the C part and return the path of the module, in a folder of its own; else raise NotCompiledError."""
    with tempfile.TemporaryFile() as said:
        try:
            with errors_to(said):
                return _compile(root, [*flags], [*link_flags])
        except NotCompiledError:
            raise
        except Exception as error:
            raise NotCompiledError(reason(text_of(said), error).replace(f"{root}{os.sep}", "")) from error
        finally:
            os.write(2, text_of(said).encode())


def sources(root: Path) -> list[str]:
    """The paths of what is compiled on this system."""
    left_out = ELSEWHERE if sys.platform == "linux" else ON_LINUX
    return sorted(str(path) for path in (root / SOURCES).glob("*.c") if path.name not in left_out)


@contextlib.contextmanager
def errors_to(file: IO[bytes]) -> Iterator[None]:
    """Have a file take what this process and those that it starts say on standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def reason(said: str, error: Exception) -> str:
    """Why nothing was compiled: the first error that the compiler tells, if it tells any."""
    found = re.search(r"^.*\berror: .*$", said, re.MULTILINE)
    return f"the C compiler says: {found[0].strip()}" if found else textwrap.shorten(f"it fails: {error}", 200)


def _compile(root: Path, flags: list[str], link_flags: list[str]) -> Path:
    compiler = (shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "") or ["cc"])[0]
    if shutil.which(compiler) is None:
        raise NotCompiledError(f"there was no C compiler: {compiler} is not found")
    try:
        from setuptools import Distribution, Extension  # noqa: PLC0415 - only where something is compiled
        from setuptools.command.build_ext import build_ext  # noqa: PLC0415
    except ImportError as error:
        raise NotCompiledError(f"the build has no setuptools, which runs the C compiler: {error}") from error

    class Build(build_ext):
        def build_extensions(self) -> None:
            # The interpreter may tell the linker where its own library is: a folder of this machine, and not needed.
            command = self.compiler.linker_so
            self.compiler.linker_so = [word for word in command if not word.startswith("-Wl,-rpath")]
            super().build_extensions()

    extension = Extension("unio._core", sources(root), extra_compile_args=flags, extra_link_args=link_flags)
    command = Build(Distribution({"name": "unio", "ext_modules": [extension]}))
    command.build_lib = command.build_temp = tempfile.mkdtemp(prefix="unio-core-")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath("unio._core"))
