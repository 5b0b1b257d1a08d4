#!/usr/bin/env python3
"""Check wheels before they are released: ``tools/wheels.py dist/*.whl``.

Each wheel has the part in C or the reason why not, as its name says, and tells nothing of the machine that made it.
What is wrong with a module for Linux shows in its ELF, which pyelftools reads.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

if TYPE_CHECKING:
    from collections.abc import Iterator

STATIC_TLS = 0x10  # DF_STATIC_TLS: the module's thread-local variables lie where the loader keeps little room

LIBRARIES = re.compile(r"(ld-linux.*|lib(c|m|pthread|rt)|libc\.musl-.*)\.so(\.\d+)?")  # those that every system has

# Where those who build have their files: a user, a container of cibuildwheel's, a runner of GitHub's.
PLACES = re.compile(rb"/(root|home|tmp|work|project|host|opt|builds|Users|private/var)/[\w./-]+")


def faults(wheel: Path) -> Iterator[str]:
    """What is wrong with a wheel."""
    pure = wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"unio/_core\..*\.so", name)]
        has_reason = "unio/_no_core.py" in archive.namelist()
        modules = [archive.read(name) for name in names]
    if len(modules) != (not pure):
        yield f"{len(modules)} modules in C"
    if has_reason != pure:
        yield "it has a reason for having none" if has_reason else "it has no reason for having none"
    for module in modules:
        yield from (f"it tells a path: {found[0].decode()}" for found in PLACES.finditer(module))
        if module.startswith(b"\x7fELF"):
            yield from faults_of_elf(ELFFile(io.BytesIO(module)), "musl" in wheel.name)


def faults_of_elf(module: ELFFile, is_for_musl: bool) -> Iterator[str]:  # noqa: FBT001 - there is but one
    """What is wrong with a module for Linux."""
    for section in module.iter_sections():
        if section.name.startswith(".debug"):
            yield f"it has debug information: {section.name}"
        if not isinstance(section, DynamicSection):
            continue
        for tag in section.iter_tags():
            if tag.entry.d_tag in {"DT_RPATH", "DT_RUNPATH"}:
                yield "it tells the loader where to look"
            if tag.entry.d_tag == "DT_NEEDED" and not LIBRARIES.fullmatch(tag.needed):
                yield f"it needs {tag.needed}"
            # The loader of musl has no such room at all for what is loaded later.
            if tag.entry.d_tag == "DT_FLAGS" and tag.entry.d_val & STATIC_TLS and is_for_musl:
                yield "its thread-local variables can't be loaded by musl"


def main() -> None:
    wheels = [Path(name) for name in sys.argv[1:]]
    found = [f"{wheel.name}: {fault}" for wheel in wheels for fault in faults(wheel)]
    if found or not wheels:
        sys.exit("\n".join(found) or "usage: wheels.py WHEEL...")
    print(f"{len(wheels)} wheels are as they should be")


if __name__ == "__main__":
    main()
