"""Generates win32_api.py and kqueue_api.py, each from its header: ``python -m unio.backends.kernel.cffi_build``.

It is run by hand, and imported by a test alone.

The results are cffi's out-of-line ABI mode: plain Python that needs no compiler, neither where it is made nor where it
runs. They are committed; a test checks that they are what this makes.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
NAMES = ("win32", "kqueue")


def generate(name: str, target: Path) -> None:
    """Write the module of one system's calls to *target*."""
    ffi = FFI()
    ffi.cdef((HERE / f"{name}_cdef.h").read_text(encoding="ascii"))
    ffi.set_source(f"unio.backends.kernel.{name}_api", None)
    ffi.emit_python_code(str(target))


if __name__ == "__main__":
    for each in NAMES:
        generate(each, HERE / f"{each}_api.py")
