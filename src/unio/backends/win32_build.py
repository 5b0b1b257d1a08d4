"""Generates win32_api.py from win32_cdef.h: ``python -m unio.backends.win32_build``.

The result is cffi's out-of-line ABI mode: plain Python that needs no compiler, neither where it is made nor where it
runs. It is committed; a test checks that it is what this makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent


def generate(target: Path) -> None:
    """Write the module to *target*."""
    ffi = FFI()
    ffi.cdef((HERE / "win32_cdef.h").read_text(encoding="ascii"))
    ffi.set_source("unio.backends.win32_api", None)
    ffi.emit_python_code(str(target))


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "win32_api.py")
