"""The page that stands for a directory without an index."""

from __future__ import annotations

import heapq
import html
import os
from typing import TYPE_CHECKING

from unio.cli.resources import escape

if TYPE_CHECKING:
    from pathlib import Path

ENTRIES_MAX = 1000
"""How many entries a listing has: one that could be of any length would take any amount of memory."""


def listing(path: Path) -> bytes:
    """A page with a link to each entry of a directory, or to the first ones by name. Raises OSError."""
    with os.scandir(path) as entries:
        found = heapq.nsmallest(ENTRIES_MAX + 1, entries, key=lambda entry: entry.name)
    title = html.escape(printable(path.name))
    lines = ["<!doctype html>", '<meta charset="utf-8">', f"<title>{title}</title>", f"<h1>{title}</h1>", "<ul>"]
    lines += [item("..", "/"), *(item(entry.name, "/" * is_directory(entry)) for entry in found[:ENTRIES_MAX])]
    lines.append("</ul>")
    if len(found) > ENTRIES_MAX:
        lines.append(f"<p>There are more: these are the first {ENTRIES_MAX:,} by name.")
    return "\n".join(lines).encode()


def item(name: str, slash: str) -> str:
    return f'<li><a href="{escape(name)}{slash}">{html.escape(printable(name))}{slash}</a>'


def is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, in one of the many ways; it is listed, and not found when followed
        return False


def printable(name: str) -> str:
    """A file's name without what can't be encoded: the stand-ins for bytes, or halves of characters on Windows."""
    return name.encode(errors="replace").decode()
