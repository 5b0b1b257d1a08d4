"""The echo server of the tutorial: ``unio_tutorial.py BUFFER``; UNIO_BACKEND chooses the backend.

Its blocks of code are taken from docs/tutorial.md and run, word for word but for the size of the buffer. So what is
measured is always what a reader of the tutorial writes.
"""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import Any

import unio

BUFFER = "65536"
"""The size that the tutorial gives a buffer."""

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def server(buffer_size: str = BUFFER) -> dict[str, Any]:
    """What the section on the echo server defines: among others ``serve(port, listening)``."""
    section = TUTORIAL.read_text().partition("\n## An echo server\n")[2].partition("\n## ")[0]
    code = "\n".join(re.findall(r"^```\{testcode\}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    assert code.count(BUFFER) == 1
    defined: dict[str, Any] = {"unio": unio}
    exec(compile(code.replace(BUFFER, buffer_size), TUTORIAL, "exec"), defined)  # noqa: S102 - it is this project's own text
    return defined


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening, unio.Port() as port:
        print(listening.getsockname()[1], flush=True)
        server(sys.argv[1])["serve"](port, listening)
