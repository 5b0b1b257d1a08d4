"""Compiles unio._core, the part of unio that is C, where there is a compiler.

It makes unio faster on Linux, macOS and the BSDs, and is what the io_uring backend runs on. Without it unio works all
the same: where it can't be compiled, the wheel is a pure one, and the reason is printed. The sources are chosen for the
system: epoll is Linux', kqueue is all systems' (on Linux a library brings it), and where the kernel's headers know too
little of io_uring, that alone is left out.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

if TYPE_CHECKING:
    from collections.abc import Callable

SYSTEMS = ("darwin", "dragonfly", "freebsd", "linux", "netbsd", "openbsd")  # sys.platform may end with a version

SOURCES = "src/core"
EPOLL = "epoll.c"
RING = ("ring.c", "ring_requests.c", "ring_results.c", "ring_type.c")
NO_RING = "no_ring.c"  # in their place

# The last: a thread may have a stack of 32 KiB (threading.stack_size), which Python itself needs some of.
FLAGS = ["-std=c11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wframe-larger-than=2048"]


class CoreHook(BuildHookInterface):  # type: ignore[type-arg]
    """The hook that pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the module before the wheel is made; an editable install gets it in the source tree."""
        if self.target_name != "wheel" or not sys.platform.startswith(SYSTEMS):
            return
        try:
            compiled = compile_core(Path(self.root), warn=self.app.display_warning)
        except Exception as error:  # noqa: BLE001 - whatever it is that is lacking, unio works without
            self.app.display_warning(f"unio._core was not compiled, and unio will be slower without: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"][str(compiled)] = f"unio/{compiled.name}"
        if version == "editable":
            put_in_place(compiled, Path(self.root) / "src" / "unio")


def put_in_place(compiled: Path, folder: Path) -> None:
    """Copy the module next to the rest of unio, as a new file: a process may have the former one in its memory."""
    fresh = folder / (compiled.name + ".new")
    shutil.copyfile(compiled, fresh)
    fresh.replace(folder / compiled.name)


def compile_core(root: Path, flags: list[str] | None = None, warn: Callable[[str], None] | None = None) -> Path:
    """Compile the C part and return the path of the module, in a folder of its own.

    Where io_uring's part of it can't be compiled, *warn* is told so, and the rest is compiled. Without *warn*, that is
    an error like any other.
    """
    flags = FLAGS if flags is None else flags
    is_linux = sys.platform == "linux"
    try:
        return _compile(root, flags, with_ring=is_linux)
    except Exception as error:
        if not is_linux or warn is None:
            raise
        compiled = _compile(root, flags, with_ring=False)
        warn(f"unio._core was compiled without io_uring, as <linux/io_uring.h> is lacking or too old: {error}")
        return compiled


def sources(root: Path, *, with_ring: bool) -> list[str]:
    """The paths of what is compiled on this system."""
    left_out = {NO_RING} if with_ring else {*RING}
    if sys.platform != "linux":
        left_out.add(EPOLL)
    return sorted(str(path) for path in (root / SOURCES).glob("*.c") if path.name not in left_out)


def _compile(root: Path, flags: list[str], *, with_ring: bool) -> Path:
    from setuptools import Distribution, Extension  # noqa: PLC0415 - only where something is compiled
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    extension = Extension("unio._core", sources(root, with_ring=with_ring), extra_compile_args=flags)
    command = build_ext(Distribution({"name": "unio", "ext_modules": [extension]}))
    command.build_lib = command.build_temp = tempfile.mkdtemp(prefix="unio-core-")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath("unio._core"))
