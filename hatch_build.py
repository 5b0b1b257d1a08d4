"""Compiles unio._core, the part of unio that is C, where there is a compiler.

It makes unio faster on Linux and is what the io_uring backend runs on. Without it unio works all the same: where it
can't be compiled, the wheel is a pure one, and the reason is printed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = "src/core"
# The last: a thread may have a stack of 32 KiB (threading.stack_size), which Python itself needs some of.
FLAGS = ["-std=c11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wframe-larger-than=2048"]


class CoreHook(BuildHookInterface):  # type: ignore[type-arg]
    """The hook that pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the module before the wheel is made; an editable install gets it in the source tree."""
        if self.target_name != "wheel" or sys.platform != "linux":
            return
        try:
            compiled = compile_core(Path(self.root))
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


def compile_core(root: Path, flags: list[str] | None = None) -> Path:
    """Compile the C part and return the path of the module, in a folder of its own."""
    from setuptools import Distribution, Extension  # noqa: PLC0415 - only where something is compiled
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    sources = sorted(str(path) for path in (root / SOURCES).glob("*.c"))
    extension = Extension("unio._core", sources, extra_compile_args=FLAGS if flags is None else flags)
    command = build_ext(Distribution({"name": "unio", "ext_modules": [extension]}))
    command.build_lib = command.build_temp = tempfile.mkdtemp(prefix="unio-core-")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath("unio._core"))
